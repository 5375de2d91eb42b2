-- open: a new tuning
select atoll.open_tuning(%(name)s, %(base)s, %(wish)s, %(scope)s) as name;

-- one: a tuning, with what each node has to know of itself
select t.name, t.base, t.wish, t.keeper, t.scope, t.ended_at is not null as is_ended, atoll.me() as me,
       coalesce(n.name, t.keeper::text) as keeper_name, (select 1 + count(*) from atoll.peers()) as nodes
  from atoll.tuning t left join atoll.node n on n.number = t.keeper where t.name = %s;

-- parts: which are here with all their pieces, and how long ago they were made
select p.round, p.node, max(p.rows) as rows, extract(epoch from atoll.time_after() - max(p.made_at))::float8 as age_seconds
  from atoll.tuning_part p where p.tuning = %s
 group by p.round, p.node, p.hash, p.pieces having count(*) = p.pieces order by p.round, p.node;

-- weights: of one part, in order
select p.weights, p.hash from atoll.tuning_part p where p.tuning = %(name)s and p.round = %(round)s and p.node = %(node)s order by p.piece;

-- put: a piece of this node's part, or of what a round begins with
insert into atoll.tuning_part (tuning, round, node, piece, scope, pieces, rows, hash, made_at, weights)
select t.name, %(round)s, %(node)s, %(piece)s, t.scope, %(pieces)s, %(rows)s, %(hash)s, atoll.time_after(), %(weights)s
  from atoll.tuning t where t.name = %(name)s and t.ended_at is null and (%(node)s = atoll.me() or (%(node)s = 0 and t.keeper = atoll.me()))
    on conflict (tuning, round, node, piece) do update
   set pieces = excluded.pieces, rows = excluded.rows, hash = excluded.hash, made_at = excluded.made_at, weights = excluded.weights
returning piece;

-- forget: parts of rounds that nobody needs any more
delete from atoll.tuning_part p where p.tuning = %(name)s and (p.round < %(round)s or (p.round = %(round)s and p.node <> 0));

-- judge: what this node found of a round
insert into atoll.tuning_verdict (tuning, round, node, scope, rows, before, after, is_kept, made_at)
select t.name, %(round)s, atoll.me(), t.scope, %(rows)s, %(before)s, %(after)s, %(is_kept)s, atoll.time_after() from atoll.tuning t where t.name = %(name)s
    on conflict (tuning, round, node) do update
   set rows = excluded.rows, before = excluded.before, after = excluded.after, is_kept = excluded.is_kept, made_at = excluded.made_at;

-- verdicts: of all nodes that are heard of
select v.round, coalesce(n.name, v.node::text) as node, v.node = atoll.me() as is_mine, v.rows, v.before, v.after, v.is_kept, v.made_at
  from atoll.tuning_verdict v left join atoll.node n on n.number = v.node where v.tuning = %s order by v.round, v.node;

-- listing: the tunings, and how far each is
select t.name, t.wish, coalesce(n.name, t.keeper::text) as keeper, t.scope, t.made_at, t.ended_at,
       (select max(p.round) from atoll.tuning_part p where p.tuning = t.name and p.node = 0) as round,
       (select count(distinct v.node) from atoll.tuning_verdict v where v.tuning = t.name) as nodes
  from atoll.tuning t left join atoll.node n on n.number = t.keeper order by t.made_at, t.name;

-- end: no more rounds; no row where it is none of this node's, or has ended
update atoll.tuning t set ended_at = atoll.time_after() where t.name = %s and t.keeper = atoll.me() and t.ended_at is null returning t.name;
