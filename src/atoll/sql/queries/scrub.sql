-- is_seeded: a node that waits for a copy has nothing to compare yet
select seeded_at is not null and not exists (select from atoll.returning) and not atoll.is_absent(number) from atoll.self;

-- tables: what to compare, with the number of writes that it has seen
select name, kind, shape, writes from atoll.tables_to_scrub();

-- neighbours: whom to compare with, and which scopes both have
select n.number, n.role = 'up', atoll.scopes_shared_with(n.number) from atoll.neighbour n where n.in_use and not atoll.is_absent(n.number) order by n.number;

-- shared_scopes: the scopes that a peer and this node have
select atoll.scopes_shared_with(%s);

-- own_scopes: the scopes of this node
select atoll.scopes_of(atoll.me());

-- slice_end: where the stretch after a key ends
select atoll.slice_end(%s, %s, %s);

-- slice: a stretch, hashed
select n, stamps, vals, n_all, stamps_all, vals_all, odd, shape from atoll.slice(%s, %s, %s, %s);

-- known_slice: the same, as it was when it was last found right
select n, stamps, vals, shape from atoll.slice where tbl = %s and md5(after) = md5(%s) and upto is not distinct from %s;

-- slice_rows: the rows of a stretch, hashed
select key, stamps, vals, odd from atoll.slice_rows(%s, %s, %s, %s, %s);

-- slice_keys: single rows, hashed
select key, stamps, vals, is_alive, odd, scope from atoll.slice_keys(%s, %s, %s);

-- altered: those that were written past the triggers since they were found right
select altered from atoll.altered(%s, %s);

-- states: single rows as they are
select key, state from atoll.slice_states(%s, %s, %s);

-- note_slice: remembers a stretch that was found right
select atoll.note_slice(%s, %s, %s, %s, %s, %s, %s);

-- forget_slices: stretches that are none any more, after a whole walk
delete from atoll.slice where tbl = %s and seen_at < now() - %s * interval '1 second' and not after = any (%s);

-- heard: how far this node has heard every member
select h.origin, h.scope, h.n from atoll.heard h where not exists (select from atoll.node n where n.number = h.origin and n.revoked_at is not null);

-- is_parked: changes of a table that wait are a reason for it to differ
select exists (select from atoll.parked where tbl = %s);

-- repair_row: makes a row what it is on another node
select atoll.repair_row(%s, %s, %s, %s, %s, %s, %s, %s);

-- adopt_row: takes a row that nobody knows for written
select atoll.adopt_row(%s, %s, %s, %s, %s);

-- set_differences: writes down what differs lastingly
with gone as (
    delete from atoll.difference d where not exists (
        select from jsonb_to_recordset(%(found)s) f (tbl text, key text) where f.tbl = d.tbl and f.key = d.key)
)
insert into atoll.difference (tbl, key, nodes, will, why)
select tbl, key, nodes, will, why from jsonb_to_recordset(%(found)s) f (tbl text, key text, nodes integer[], will text, why text)
on conflict (tbl, md5(key)) do update set nodes = excluded.nodes, will = excluded.will, why = excluded.why;

-- forget_repairs: the oldest of the list
select atoll.forget_repairs();

-- count_repairs: rows mended here, as far as they are listed
select count(*) from atoll.repair;

-- repairs_seen: what was mended here, the latest first
select r.id, r.at, r.tbl, r.key, r.kind, coalesce(n.name, '') as like_node, r.was, r.became, r.why
  from atoll.repair r left join atoll.node n on n.number = r.like_node order by r.id desc limit %s;

-- receipt: a table's rows in one line, and how far this node had heard everybody
select t.name, atoll.receipt(t.name, s.scopes) as receipt, s.scopes,
       (select coalesce(jsonb_object_agg(h.origin || ' ' || h.scope, h.n), '{}') from atoll.heard h where h.scope = any (s.scopes)) as heard
  from atoll.local_table t, (select coalesce(%(scopes)s::text[], atoll.scopes_of(atoll.me())) as scopes) s
 where t.name = %(table)s;
