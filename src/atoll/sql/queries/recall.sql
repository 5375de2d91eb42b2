-- facts: what the server says of itself, and the last time that this node came up
select s.system_identifier::text, c.timeline_id, pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
       (select id from atoll.incarnation order by ordinal desc limit 1),
       (select system_id::text from atoll.incarnation order by ordinal desc limit 1),
       (select timeline from atoll.incarnation order by ordinal desc limit 1)
  from pg_control_system() s, pg_control_checkpoint() c;

-- begin: the node has come up
insert into atoll.incarnation (id, number, lsn, system_id, timeline)
select %s, n.number, pg_current_wal_insert_lsn(), s.system_identifier, c.timeline_id
  from atoll.self n, pg_control_system() s, pg_control_checkpoint() c;

-- forget_oldest: of a node's starts, the last thousand are remembered
delete from atoll.incarnation where ordinal <= (select max(ordinal) from atoll.incarnation) - 1000;

-- history: when this node came up under its present number, the earliest first
select i.id, pg_wal_lsn_diff(i.lsn, '0/0')::bigint from atoll.incarnation i, atoll.self s where i.number = s.number order by i.ordinal;

-- end_of_wal: how far this server has written
select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint;

-- seen: what is known here of a peer: which incarnation of it, and how far in its WAL
select (select nullif(a.incarnation, '') from atoll.acquaintance a where a.peer = %(peer)s),
       pg_wal_lsn_diff(atoll.seen_of(%(peer)s), '0/0')::bigint;

-- meet: a peer says who it is now
insert into atoll.acquaintance (peer, incarnation, certificate) values (%s, %s, %s)
on conflict (peer) do update set incarnation = excluded.incarnation, certificate = excluded.certificate, met_at = now();

-- end_links: nothing is sent under the old number any more
select atoll.end_links();

-- take_number: the node has another number from now on
select atoll.take_number(%s, %s);

-- note_former: a number that the certificate has, and the database does not remember
insert into atoll.former (number, why) values (%s, %s) on conflict do nothing;

-- open_writes: a restored database is closed to writes until it has its new number
alter system reset default_transaction_read_only;

-- reload: takes that up
select pg_reload_conf();

-- numbers: every number that was ever given, as far as it is known here
select number from atoll.node union select number from atoll.former union select number from atoll.self;

-- is_untold: whether everybody has still to be told what is here
select exists (select from atoll.former where told_at is null);

-- tell_everything: what is here, for everybody
call atoll.tell_everything();

-- former: the numbers that this node had
select number, why from atoll.former order by until;

-- retire: numbers that are not used any more
update atoll.node set revoked_at = now() where number = any (%s) and revoked_at is null;

-- retire_former: nor are those that this node gave up
update atoll.node n set revoked_at = now() from atoll.former f
 where n.number = f.number and n.number <> atoll.me() and n.revoked_at is null;

-- know_again: a member has taken another number
select atoll.know_again(%s, %s, %s, %s, %s);

-- row_of: a node by its number
select name, region, tier, addresses, revoked_at is not null from atoll.node where number = %s;
