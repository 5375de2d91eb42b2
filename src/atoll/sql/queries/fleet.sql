-- ties: links that people asked for, or cut
select a, b, kind from atoll.tie order by a, b;

-- upstream_in_use: the upstream that was used last
select number from atoll.neighbour where role = 'up' and in_use;

-- set_neighbours: writes down who the neighbours are; says whether that is news
select atoll.set_neighbours(%s);

-- make_marks: covers what is in the log
select atoll.make_marks(%s);

-- is_over: whether every transaction before this one has ended
select pg_snapshot_xmin(c) >= least(%s::xid8, pg_snapshot_xmax(c)) from pg_current_snapshot() c;

-- heard: how far this node has heard the others
select coalesce(jsonb_agg(jsonb_build_array(origin, scope, n)), '[]') from atoll.heard;

-- note_heard: how far a node has come that receives from another one
select atoll.note_heard(%s, %s);

-- gaps: changes that went missing, for so long that they will not come by themselves
select count(*) from atoll.heard where gap_since < now() - %s * interval '1 second';

-- members_and_standbys: how many nodes there are, and which upstreams stand by
select (select count(*) from atoll.peers()) + 1,
       (select coalesce(array_agg(number), '{}') from atoll.neighbour where role = 'up' and not in_use);

-- sources: of these neighbours the one to get a copy from, best from this region; where that is in another one, then the
-- one that has what may not leave this region
with near as (
    select n.number, p.region = s.region as is_here,
           row_number() over (order by n.role = 'kin', p.region <> s.region, n.role <> 'up', n.role = 'down', l.rtt_ms nulls last, n.number) as place
      from atoll.neighbour n join atoll.peers() p on p.number = n.number cross join atoll.self s
      left join atoll.link_state l on l.peer = n.number
     where n.number = any (%s)
)
select number from near where place = 1 or place = (select min(k.place) from near k where k.is_here) order by place;

-- members: every node that is not shut out, and how the link to it is
select n.number, n.name, n.region, n.tier, n.number = atoll.me() as is_me, l.state as link
  from atoll.node n left join atoll.link_state l on l.peer = n.number
 where n.revoked_at is null order by n.number;

-- tie: decides by hand whether two nodes have a link
select atoll.tie(%s, %s, %s, %s);

-- scope_rule: where a table's rows may go
select name, scope, scope_column, usual, words from atoll.scope_rule(%s);

-- scope_of_row: where one row may go
select atoll.scope_of_row(%s, %s::text[]);

-- holders: the nodes that may have what is in a scope
select n.name, n.region, r.law,
       %(scope)s = any (atoll.scopes_of(n.number)) or %(scope)s = 'local' and n.number = atoll.me() as holds,
       case when %(by_row)s and %(scope)s in ('region', 'node') then 'its own rows'
            when %(scope)s = 'global' then 'global: every node' when %(scope)s = 'local' then 'local: where it was written'
            when %(scope)s = any (atoll.scopes_of(n.number)) then 'is in ' || %(scope)s else 'is not in ' || %(scope)s end as why
  from atoll.node n left join atoll.region r on r.name = n.region
 where n.revoked_at is null order by n.number;

-- name_region: names a region, or says its law
insert into atoll.region (name, law, note) values (%(name)s, coalesce(%(law)s, ''), coalesce(%(note)s, ''))
on conflict (name) do update set law = coalesce(%(law)s, region.law), note = coalesce(%(note)s, region.note);

-- regions: every region that is named or that a node is in
select name, coalesce(r.law, '') as law, coalesce(r.note, '') as note,
       (select coalesce(array_agg(n.name order by n.number), '{}') from atoll.node n where n.region = coalesce(r.name, u.name) and n.revoked_at is null) as nodes
  from atoll.region r full join (select distinct region as name from atoll.node where revoked_at is null) u using (name)
 order by name;
