-- A node among its peers: who they are, what is published to each, how far each has come, what may be deleted.

-- The peers that this node should have a link to.
create or replace function atoll.peers()
returns table (number integer, name text, region text, tier text, addresses text[])
language sql stable set search_path = pg_catalog
begin atomic
    select n.number, n.name, n.region, n.tier, n.addresses
      from atoll.node n
     where n.number <> atoll.me() and n.revoked_at is null
    union all
    select i.number, i.name, i.region, i.tier, i.addresses
      from atoll.self s, jsonb_to_recordset(s.introduced) i (number integer, name text, region text, tier text, addresses text[])
     where i.number <> atoll.me() and not exists (select from atoll.node n where n.number = i.number)
     order by 1;
end;

create or replace function atoll.is_member(peer integer) returns boolean
language sql stable set search_path = pg_catalog
return exists (select from atoll.peers() p where p.number = peer);

-- What this node publishes to a peer: its own changes, and what is meant for that peer alone.
create or replace function atoll.publish_to(peer integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    if not exists (select from pg_publication where pubname = 'atoll_to_' || peer) then
        execute format('create publication %I for table atoll.change (origin, seq, version, tbl, op, at, ats, prev, prevs, epochs, n, cols, vals, target, scope) '
                       'where (origin = %s and (target is null or target = %s)) with (publish = ''insert'')', 'atoll_to_' || peer, atoll.me(), peer);
    end if;
    insert into atoll.progress (peer) values (peer) on conflict do nothing;
end $$;

create or replace function atoll.unpublish_to(peer integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    execute format('drop publication if exists %I', 'atoll_to_' || peer);
    perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'atoll_to_' || peer and active_pid is not null;
    delete from atoll.progress p where p.peer = unpublish_to.peer;
    -- What it wrote last may have reached some of the others only: they tell each other everything once more.
    update atoll.progress set missed = true, misses = misses + 1;
end $$;

-- Slots of peers that are no members, or that lost their WAL: dropped, so that they hold nothing back.
create or replace function atoll.drop_dead_slots() returns setof text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    slot record;
begin
    for slot in select s.slot_name from pg_replication_slots s
                 where not s.active
                   and (s.wal_status = 'lost' and s.slot_name ~ '^(atoll_to_|pg_[0-9]+_sync_)'
                        or s.slot_name ~ '^atoll_to_[0-9]+$' and not atoll.is_member(substr(s.slot_name, 10)::integer)) loop
        perform pg_drop_replication_slot(slot.slot_name);
        return next slot.slot_name;
    end loop;
end $$;

-- What a peer is told before it subscribes, and every few seconds after. It says whether its first copy is done:
-- until then it confirms WAL whose changes it has not applied.
create or replace function atoll.prepare_for(peer integer, copied boolean) returns jsonb
language plpgsql security definer set search_path = pg_catalog as $$
declare
    slot text := (select case when wal_status = 'lost' then 'lost' when confirmed_flush_lsn is null then 'making' else 'kept' end
                    from pg_replication_slots where slot_name = 'atoll_to_' || peer);
begin
    if not atoll.is_member(peer) then
        perform atoll.refuse('not-a-member', format('node %s is no member that is known here', peer), state => 'AT003');
    end if;
    perform atoll.publish_to(peer);
    update atoll.progress p set copied = not p.copied
     where p.peer = prepare_for.peer and p.copied <> (prepare_for.copied and coalesce(slot, '') = 'kept');
    return jsonb_build_object(
        'slot', coalesce(slot, 'none'),
        'missed', (select missed from atoll.progress p where p.peer = prepare_for.peer));
end $$;
drop function if exists atoll.prepare_for(integer);

-- A peer asks for a copy of everything. Until it is written, the asking is remembered.
create or replace function atoll.owe_seed(to_peer integer) returns void
language sql security definer set search_path = pg_catalog
begin atomic
    update atoll.progress set missed = true, misses = misses + 1 where peer = to_peer;
end;

-- Notes how far each peer has come. A mark says: whoever has confirmed this place in the WAL has applied every
-- change with a smaller xid (those were committed before the place was read).
create or replace function atoll.note_progress() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
    if exists (select from atoll.change limit 1) then
        insert into atoll.mark (lsn, xid) values (pg_current_wal_insert_lsn(), horizon) on conflict do nothing;
    end if;
    update atoll.progress p set xid = m.xid, heard_at = now()
      from pg_replication_slots s,
           lateral (select xid from atoll.mark where lsn <= s.confirmed_flush_lsn order by lsn desc limit 1) m
     where s.slot_name = 'atoll_to_' || p.peer and p.copied and m.xid > p.xid;
    delete from atoll.mark where lsn < (select coalesce(min(m.lsn), '0/0') from atoll.progress p
        cross join lateral (select lsn from atoll.mark where xid <= p.xid order by lsn desc limit 1) m)
        or made_at < now() - (atoll.setting('change_retention'))::interval;
end $$;

-- Deletes changes that every member has applied and every cursor has passed; then, for the sake of the disk,
-- those beyond the retention, and remembers who missed them. Says how many went.
create or replace function atoll.trim(most integer default 20000) returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    read_to xid8;
    applied xid8;
    gone    bigint;
    excess  bigint;
    cut     record;
begin
    perform atoll.note_progress();
    select min(xid) into read_to from atoll.cursor;
    select min(xid) into applied from atoll.progress p where atoll.is_member(p.peer);
    if not exists (select from atoll.progress) then
        -- Nobody to send to yet: whoever joins is seeded from the tables.
        applied := pg_snapshot_xmin(pg_current_snapshot());
    end if;
    delete from atoll.change c where (c.origin, c.seq) in (
        select d.origin, d.seq from atoll.change d
         where (read_to is null or d.xid < read_to)
           and (d.origin <> atoll.me() and d.xid < pg_snapshot_xmin(pg_current_snapshot())
                or d.target is null and d.xid < applied
                or d.target is not null and d.xid < coalesce((select p.xid from atoll.progress p where p.peer = d.target), d.xid))
         order by d.xid, d.seq, d.origin limit most);
    get diagnostics gone = row_count;
    select pg_table_size('atoll.change') - value::bigint into excess from atoll.setting where name = 'change_bytes_max';
    select d.xid, d.seq, d.origin into cut from atoll.change d
     where gone = 0 and (d.xid < (select max(m.xid) from atoll.mark m where m.made_at < now() - atoll.setting('change_retention')::interval)
                         or excess > 0)
     order by d.xid, d.seq, d.origin offset most limit 1;
    if cut.xid is not null then
        update atoll.progress p set missed = true, misses = misses + 1 where p.xid <= cut.xid;
        delete from atoll.change d where (d.xid, d.seq, d.origin) < (cut.xid, cut.seq, cut.origin);
        get diagnostics gone = row_count;
    end if;
    delete from atoll.conflict where seen_at < now() - atoll.setting('conflict_retention')::interval
        or id <= (select max(id) from atoll.conflict) - atoll.setting('conflict_rows_max')::bigint;
    delete from atoll.expected where seen_at < now() - atoll.setting('change_retention')::interval;
    delete from atoll.errand where asked_at < now() - interval '1 hour';
    return gone;
end $$;

-- What a node should have and somebody took away: tables declared but not installed, triggers dropped or
-- switched off. Says how many things were mended.
create or replace function atoll.mend() returns integer
language plpgsql security definer set search_path = pg_catalog as $$
declare
    mended integer := 0;
    t      record;
begin
    perform atoll.install_tables();
    for t in select name from atoll.local_table where problem is null loop
        mended := mended + atoll.set_triggers(t.name);
    end loop;
    if exists (select from pg_trigger where tgrelid = 'atoll.change'::regclass and tgname = 'arrive' and tgenabled <> 'R') then
        alter table atoll.change enable replica trigger arrive;
        mended := mended + 1;
    end if;
    return mended;
end $$;

-- Everything that this node has, as changes meant for one peer: a merge like any other on its side. Ends with
-- a marker, a change of no table.
create or replace procedure atoll.seed(for_peer integer)
language plpgsql as $$
declare
    t       record;
    owed_at constant integer := (select misses from atoll.progress where peer = for_peer);
begin
    for t in select l.name, l.side from atoll.local_table l where l.problem is null order by l.name <> 'atoll.node', l.name <> 'atoll.shared_table', l.made_at loop
        execute format('select %s($1)', atoll.generated(t.side, 'seed')) using for_peer;
        commit;
    end loop;
    insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, target)
    values (atoll.me(), nextval('atoll.change_seq'), '', 'S', atoll.now(), 0, '{}', '{}', for_peer);
    -- What was deleted while this was written may be missing again.
    update atoll.progress set missed = false where peer = for_peer and misses = owed_at;
    commit;
end $$;

create or replace function atoll.seeded() returns void
language sql security definer set search_path = pg_catalog
begin atomic
    update atoll.self set seeded_at = coalesce(seeded_at, clock_timestamp());
end;
