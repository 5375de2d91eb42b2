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

-- Is what is published to a peer what publish_to would publish? Somebody may have changed it by hand.
create or replace function atoll.is_published_to(peer integer) returns boolean
language sql stable set search_path = pg_catalog
return exists (
    select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
     where p.pubname = 'atoll_to_' || peer and p.pubinsert and r.prrelid = 'atoll.change'::regclass
       and pg_get_expr(r.prqual, r.prrelid) = format('((origin = %s) AND ((target IS NULL) OR (target = %s)))', atoll.me(), peer));

-- What this node publishes to a peer: its own changes, and what is meant for that peer alone. Where that was not so
-- for a while, changes may have passed the peer by: its slot goes too, and it begins anew from the log.
create or replace function atoll.publish_to(peer integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    if not atoll.is_published_to(peer) then
        perform atoll.drop_slot('atoll_to_' || peer);
        execute format('drop publication if exists %I', 'atoll_to_' || peer);
        execute format('create publication %I for table atoll.change (origin, seq, version, tbl, op, at, ats, prev, prevs, epochs, n, cols, vals, target, scope) '
                       'where (origin = %s and (target is null or target = %s)) with (publish = ''insert'')', 'atoll_to_' || peer, atoll.me(), peer);
    end if;
    insert into atoll.progress (peer) values (peer) on conflict do nothing;
end $$;

-- Drops a slot that somebody may be reading from.
create or replace function atoll.drop_slot(slot text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    for attempt in 1..50 loop
        perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = slot and active_pid is not null;
        begin
            perform pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = slot;
            return;
        exception when object_in_use then
            perform pg_sleep(0.02);
        end;
    end loop;
    perform atoll.refuse('slot-in-use', format('could not drop slot %s: it is in use', slot), state => 'AT002');
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

-- A peer asks for a copy of everything. Until it is written, the asking is remembered.
create or replace function atoll.owe_seed(to_peer integer) returns void
language sql security definer set search_path = pg_catalog
begin atomic
    update atoll.progress set missed = true, misses = misses + 1 where peer = to_peer;
end;

-- Notes how far each peer has come. A mark says: whoever has confirmed this place in the WAL has applied every
-- change with a smaller xid (those were committed before the place was read). The longer a peer is away, the
-- further apart the marks, so that there are never more than some thousands.
create or replace function atoll.note_progress() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
    insert into atoll.mark (lsn, xid) select pg_current_wal_insert_lsn(), horizon
     where exists (select from atoll.change)
       and not exists (select from atoll.mark where xid = horizon
                        or made_at > now() - (now() - (select min(made_at) from atoll.mark)) / 1000)
        on conflict do nothing;
    update atoll.progress p set xid = m.xid, heard_at = now()
      from pg_replication_slots s,
           lateral (select xid from atoll.mark where lsn <= s.confirmed_flush_lsn order by lsn desc limit 1) m
     where s.slot_name = 'atoll_to_' || p.peer and p.copied and m.xid > p.xid;
    delete from atoll.mark where lsn < (select min(m.lsn) from (select (select max(lsn) from atoll.mark where xid <= p.xid) as lsn from atoll.progress p) m)
        or made_at < (select max(made_at) from atoll.mark where made_at < now() - atoll.setting('change_retention')::interval)
        or not exists (select from atoll.change);
end $$;

-- Deletes changes that every member has applied and every cursor has passed; then, for the sake of the disk,
-- those beyond the bounds, and remembers which members and cursors missed them. Says how many went.
create or replace function atoll.trim(most integer default 20000) returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    horizon constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
    read_to xid8;
    applied xid8;
    gone    bigint;
begin
    perform atoll.note_progress();
    select min(xid) into read_to from atoll.cursor;
    -- Without a peer there is nobody to send to: whoever joins is seeded from the tables.
    select coalesce(min(xid), horizon) into applied from atoll.progress p where atoll.is_member(p.peer);
    delete from atoll.change c where (c.origin, c.seq) in (
        select d.origin, d.seq from atoll.change d
         where (read_to is null or d.xid < read_to)
           and (d.origin <> atoll.me() and d.xid < horizon
                or d.target is null and d.xid < applied
                or d.target is not null and d.xid < coalesce((select p.xid from atoll.progress p where p.peer = d.target), d.xid))
         order by d.xid, d.seq, d.origin limit most);
    get diagnostics gone = row_count;
    gone := gone + atoll.cut_log();
    delete from atoll.conflict where seen_at < now() - atoll.setting('conflict_retention')::interval
        or id <= (select max(id) from atoll.conflict) - atoll.setting('conflict_rows_max')::bigint;
    delete from atoll.expected where seen_at < now() - atoll.setting('change_retention')::interval;
    delete from atoll.errand where asked_at < now() - interval '1 hour';
    return gone;
end $$;

-- The bounds of the log: what is older than the retention goes, and when the file has grown beyond its bound, the
-- oldest go until three quarters of it are left. A copy on its way to a peer that confirms now and then stays.
create or replace function atoll.cut_log() returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    bound    constant bigint := atoll.setting('change_bytes_max')::bigint;
    size     constant bigint := pg_table_size('atoll.change');
    measured constant bigint := nullif(current_setting('atoll.log_measured', true), '')::bigint;
    old      xid8;
    gone     bigint := 0;
begin
    select max(xid) into old from atoll.mark where made_at < now() - atoll.setting('change_retention')::interval;
    -- Deleting does not shrink the file: what has been freed is used again before it grows, and only then is it worth a look.
    if size > bound and size > coalesce(measured, 0) then
        perform set_config('atoll.log_measured', size::text, false);
        select greatest(old, max(xid)) into old
          from (select d.xid, sum(200 + pg_column_size(d.vals) + coalesce(pg_column_size(d.prevs), 0)) over (order by d.xid desc) as kept
                  from atoll.change d where d.target is null) d
         where kept > bound / 4 * 3;
    end if;
    if old is not null then
        delete from atoll.change d where d.xid <= old
           and (d.target is null or exists (select from atoll.progress p where p.peer = d.target and p.heard_at < now() - interval '1 hour'));
        get diagnostics gone = row_count;
        if gone > 0 then
            update atoll.progress set missed = true, misses = misses + 1 where xid <= old;
            update atoll.cursor set missed = true where xid <= old;
        end if;
    end if;
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
    owed_at constant integer := (select misses from atoll.progress where peer = for_peer and missed);
begin
    if owed_at is null then
        return;
    end if;
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
