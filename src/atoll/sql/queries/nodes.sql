-- own_identity: who this node is, as the database knows it
select atoll_id::text, number, name, seeded_at is not null from atoll.self;

-- write_identity: makes the database the database of this node; a founder has nothing to wait for
insert into atoll.self (atoll_id, number, name, region, introduced, seeded_at)
values (%(atoll_id)s, %(number)s, %(name)s, %(region)s, %(introduced)s, case when %(founds)s then now() end)
on conflict (only_row) do update set region = excluded.region;

-- set_future_bound: how far ahead a stamp may be
update atoll.setting set value = %s || ' seconds' where name = 'future_bound' and value <> %s || ' seconds';

-- add_own_row: the founder's row; a node that joins gets its row from the node that admits it
insert into atoll.node (number, name, region, tier, addresses)
values (%(number)s, %(name)s, %(region)s, %(tier)s, %(addresses)s)
on conflict do nothing;

-- refresh_own_row: tells the others what has changed here
update atoll.node set region = %(region)s, tier = %(tier)s, addresses = %(addresses)s
 where number = %(number)s and (region, tier, addresses) is distinct from (%(region)s, %(tier)s, %(addresses)s::text[]);

-- peers: the nodes that this one should have a link to
select number, name, region, tier, addresses from atoll.peers();

-- all_nodes: every node, as the atoll knows it
select number, name, region, tier, addresses from atoll.node where revoked_at is null order by number;

-- revoked: numbers that may not come in
select number from atoll.node where revoked_at is not null;

-- revoke: shuts a node out
update atoll.node set revoked_at = now(), ended = 'evicted' where (name = %(node)s or number::text = %(node)s) and revoked_at is null returning number, name;

-- nodes_seen: every node with how its link is
select n.number, n.name, n.region, n.tier, n.addresses, n.joined_at, n.revoked_at, n.number = atoll.me() as is_me,
       l.state, l.rtt_ms, l.bytes_in, l.bytes_out, l.reconnects, l.receiving, l.problem,
       extract(epoch from now() - l.seen_at)::float8 as seen_ago,
       (select count(*) from atoll.change c where c.origin = atoll.me() and (c.target is null or c.target = n.number)
           and c.xid >= coalesce(p.xid, '0'::xid8) and p.peer is not null) as unconfirmed,
       p.missed, n.ended, atoll.kept_until(n.number) as kept_until,
       atoll.is_absent(n.number) as is_absent, atoll.absent_from(n.number) as absent_from
  from atoll.node n
  left join atoll.link_state l on l.peer = n.number
  left join atoll.progress p on p.peer = n.number
 order by n.number;

-- lock_numbers: one admission at a time
select pg_advisory_xact_lock(x'61746f6c'::int, 3);

-- invitation: the invitation, locked until it is used
select secret_hash, expires_at < now() as is_expired, used_at is not null as is_used, wishes from atoll.invitation where id = %s for update;

-- add_invitation: what was promised to whoever shows the secret
insert into atoll.invitation (id, secret_hash, expires_at, wishes) values (%s, %s, to_timestamp(%s), %s);

-- use_invitation: it serves once
update atoll.invitation set used_at = now(), used_by = %s where id = %s;

-- next_number: a number that no node ever had; those above are for nodes that have to take one by themselves
select coalesce(max(number) filter (where number < 32768), 0) + 1 from atoll.node;

-- name_taken: names are unique in an atoll
select exists (select from atoll.node where name = %s and revoked_at is null);

-- admit: the new node's row, which tells everybody
insert into atoll.node (number, name, region, tier, addresses) values (%s, %s, %s, %s, %s);

-- overview: how a node is doing in a line or two
select n.number, n.name, n.region, n.tier, n.revoked_at is not null as has_left,
       (select count(*) from atoll.peers()) as peers,
       (select count(*) from atoll.link_state l where l.state = 'up') as links_up,
       (select count(*) from atoll.local_table t where t.name not like 'atoll.%') as tables,
       (select coalesce(json_object_agg(t.name, t.problem), '{}')
          from (select name, problem from atoll.local_table union all select name, problem from atoll.brought) t where t.problem is not null) as table_problems,
       (select count(*) from atoll.parked) as parked,
       (select count(*) from atoll.conflict c where c.reverted_at is null) as conflicts,
       (select coalesce(json_object_agg(d.tbl, d.n), '{}') from (select tbl, count(*) as n from atoll.difference group by tbl) d) as differences,
       (select count(*) from atoll.repair where at > now() - interval '1 day') as repairs,
       (select count(*) from atoll.orphan where done is null and why <> 'out of scope') as orphans,
       (select jsonb_object_agg(m.model, jsonb_build_object('state', m.state, 'problem', m.problem)) from atoll.model_state m) as models,
       (select jsonb_object_agg(p.name, jsonb_build_object('state', p.state, 'waiting', p.waiting, 'oldest_seconds', p.oldest_seconds, 'dead', p.dead, 'problem', p.problem))
          from atoll.pipelines p where p.state <> 'elsewhere') as pipelines
  from atoll.self s left join atoll.node n on n.number = s.number;

-- hear_settled: before one asks whether the node's process has seen what is committed
listen atoll_settled;

-- settle: asks it
select pg_notify('atoll_models', %s);

-- settled: it has
select pg_notify('atoll_settled', %s);
