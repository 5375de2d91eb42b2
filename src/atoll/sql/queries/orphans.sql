-- is_current: a node that waits for a copy does not know who is an orphan
select seeded_at is not null and not atoll.is_absent(atoll.me()) from atoll.self;

-- tables: which tables may have orphans, and how often they and their parents were written
select name, writes from atoll.tables_with_references();

-- find: looks at the next stretch of a table, and lists the orphans in it
select upto, listed from atoll.find_orphans(%s, %s, %s, greatest(0, %s - (select count(*) from atoll.orphan where done is null and why <> 'out of scope'))::integer);

-- review: looks at the listed orphans again, and counts them
select atoll.review_orphans();

-- handle: does what the rules say about those that last
select atoll.handle_orphans(%s);

-- orphans_seen: orphans, those first about which nothing has been done yet
select o."table", o.key, o."constraint", o.parent, o.parent_key, o.why, o.since, o.policy, w.lasts, o.problem, o.done, o.done_at
  from (select v.*, p.since as stamp from atoll.orphans v join atoll.orphan p using (id)) o, lateral (select o.stamp < h.heard as lasts from (select atoll.heard_up_to() as heard offset 0) h) w
 where %(table)s::text is null or o."table" = %(table)s
 order by o.done is not null, o.done_at desc, o.id limit %(most)s;

-- set_policy: what becomes of a table's orphans
select atoll.on_orphans(%s, %s);
