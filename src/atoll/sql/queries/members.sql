-- me: who this node is, and whether there are others
select s.name, (select count(*) from atoll.peers()) as members from atoll.self s;

-- hold_writes: refuses or allows the writes of applications
call atoll.hold_writes(%s);

-- place: where the log is now
select pg_current_wal_insert_lsn()::text as place;

-- behind: who has not confirmed that place
select number, name, link, bytes from atoll.behind(%s::pg_lsn);

-- leave: ends this node's membership, for everybody
update atoll.node set revoked_at = now(), ended = 'left' where number = atoll.me();

-- forget_deleted: forgets what everybody knows to be deleted
select atoll.forget_deleted(%s);

-- evicted: who was shut out, rather than having left in order
select number from atoll.node where revoked_at is not null and ended is distinct from 'left';

-- last_heard: how far a node had been heard
select h.n, h.heard_at, atoll.stamp_time(h.covered) as covered from atoll.heard h join atoll.node n on n.number = h.origin
 where h.scope = 'global' and (n.name = %(node)s or n.number::text = %(node)s);
