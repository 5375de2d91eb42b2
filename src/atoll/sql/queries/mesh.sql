-- prepare_for: what a peer needs to subscribe
select atoll.prepare_for(%s, %s);

-- make_slot: keeps WAL for a peer from here on; it waits for the transactions that run
select pg_create_logical_replication_slot('atoll_to_' || %s::int, 'pgoutput');

-- owe_seed: remembers that a peer needs a copy of everything
select atoll.owe_seed(%s, %s);

-- copied: how far the copy for a peer is
select written, tables_done, tables_all from atoll.copied_for(%s);

-- publications: the peers that something is published to, and whether it is what it should be
select substr(pubname, 10)::integer, atoll.is_published_to(substr(pubname, 10)::integer) from pg_publication where pubname ~ '^atoll_to_[0-9]+$';

-- publish_to: publishes to a peer
select atoll.publish_to(%s);

-- unpublish_to: ends that
select atoll.unpublish_to(%s);

-- owe_everybody: every neighbour gets a copy of everything
select atoll.owe_everybody();

-- drop_dead_slots: slots that hold WAL for nobody
select atoll.drop_dead_slots();

-- subscriptions: what this node receives, and how that is going
select substr(s.subname, 12)::integer, s.subenabled, atoll.dials(s.oid),
       (select bool_and(r.srsubstate = 'r') from pg_subscription_rel r where r.srsubid = s.oid) is true,
       exists (select from pg_stat_subscription t where t.subid = s.oid and t.relid is null and t.pid is not null),
       s.subslotname is not null,
       (select format('pg_%s_sync_%s_%s', r.srsubid, r.srrelid, c.system_identifier)
          from pg_subscription_rel r, pg_control_system() c where r.srsubid = s.oid and r.srsubstate = 'f')
  from pg_subscription s
 where s.subname ~ '^atoll_from_[0-9]+$' and s.subdbid = (select oid from pg_database where datname = current_database());

-- mend: puts right what somebody took away
select atoll.mend();

-- retry_parked: tries parked changes that are due
select merged, remain from atoll.retry_parked();

-- trim: deletes changes that everybody has
select atoll.trim();

-- seed: everything here, for one peer
call atoll.seed(%s);

-- forget_links: links to nodes that are no peers
delete from atoll.link_state where peer <> all (%s);

-- note_link: how a link is
insert into atoll.link_state (peer, state, dialled_by, rtt_ms, bytes_in, bytes_out, reconnects, receiving, problem)
values (%(peer)s, %(state)s, %(dialled_by)s, %(rtt_ms)s, %(bytes_in)s, %(bytes_out)s, %(reconnects)s, %(receiving)s, %(problem)s)
on conflict (peer) do update set state = excluded.state, dialled_by = excluded.dialled_by, rtt_ms = excluded.rtt_ms,
    bytes_in = excluded.bytes_in, bytes_out = excluded.bytes_out, reconnects = excluded.reconnects,
    receiving = excluded.receiving, problem = excluded.problem, seen_at = now();

-- numbers: counts for the metrics
select (select count(*) from atoll.local_table where name not like 'atoll.%'),
       (select count(*) from atoll.local_table where problem is not null),
       (select count(*) from atoll.parked),
       (select count(*) from atoll.conflict),
       (select greatest(reltuples, 0)::bigint from pg_class where oid = 'atoll.change'::regclass),
       pg_table_size('atoll.change'),
       (select count(*) from atoll.cursor);

-- lag: bytes of WAL that each peer has not confirmed yet
select substr(slot_name, 10)::integer, pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint, wal_status
  from pg_replication_slots where slot_name ~ '^atoll_to_[0-9]+$';

-- seeded_without: peers whose copy is still to be asked for
select unnest(seeded_without) from atoll.self;

-- seed_without: these peers were away when the copy was asked for
update atoll.self set seeded_without = %s::integer[];

-- seed_asked: this one is not missing any more
update atoll.self set seeded_without = array_remove(seeded_without, %s);

-- be_patient: how long to wait for a lock
select set_config('lock_timeout', %s, false);
