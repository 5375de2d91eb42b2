-- Trimming: how far every neighbour has come in this node's log, and what of it may be deleted.

-- Notes how far each peer has come. A waypoint says: whoever has confirmed this place in the WAL has applied every
-- change with a smaller xid (those were committed before the place was read). The longer a peer is away, the
-- further apart the waypoints, so that there are never more than some thousands.
create or replace function atoll.note_progress() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    horizon xid8 := pg_snapshot_xmin(pg_current_snapshot());
begin
    insert into atoll.waypoint (lsn, xid) select pg_current_wal_insert_lsn(), horizon
     where exists (select from atoll.change)
       and not exists (select from atoll.waypoint where xid = horizon
                        or made_at > now() - (now() - (select min(made_at) from atoll.waypoint)) / 1000)
        on conflict do nothing;
    update atoll.progress p set xid = m.xid, heard_at = now()
      from pg_replication_slots s,
           lateral (select xid from atoll.waypoint where lsn <= s.confirmed_flush_lsn order by lsn desc limit 1) m
     where s.slot_name = 'atoll_to_' || p.peer and p.copied and m.xid > p.xid;
    delete from atoll.waypoint where lsn < (select min(m.lsn) from (select (select max(lsn) from atoll.waypoint where xid <= p.xid) as lsn from atoll.progress p) m)
        or made_at < (select max(made_at) from atoll.waypoint where made_at < now() - atoll.setting('change_retention')::interval)
        or not exists (select from atoll.change);
end $$;

-- The first change or mark of the log that a peer has not heard, when it says how far it has heard everybody:
-- [[origin, scope, mark], ...]. A mark of this node covers what had ended before it was made. One that arrived covers
-- what had begun to arrive before it and is not stamped later than it says: a large transaction begins to arrive long
-- before its end, and a log that is copied comes in one transaction, with what came after its marks.
create or replace function atoll.unheard_from(peer integer, told jsonb) returns xid8
language sql stable security definer set search_path = pg_catalog
begin atomic
    with marks as (
        select h.origin, h.scope, (t->>2)::bigint as told, coalesce((t->>2)::bigint >= m.vals[1]::bigint, false) as is_heard,
               case when (t->>2)::bigint >= coalesce(min(m.vals[2]::bigint) over (partition by h.origin, h.scope), h.n) then h.trimmed end as trimmed,
               case when h.origin = atoll.me() then m.vals[3]::xid8 else m.xid end as xid, m.vals[4]::bigint as stamp
          from jsonb_array_elements(told) t
          join atoll.heard h on h.origin = (t->>0)::integer and h.scope = t->>1
          left join atoll.change m on m.op = 'M' and m.origin = h.origin and m.scope = h.scope
    ), covered as (
        select k.origin, k.scope, max(k.told) as n, greatest(max(k.trimmed), max(k.xid) filter (where k.is_heard)) as before,
               max(k.stamp) filter (where k.is_heard) as stamp
          from marks k group by k.origin, k.scope
    )
    select least(pg_snapshot_xmin(pg_current_snapshot()), (
               select min(c.xid) from atoll.change c left join covered v using (origin, scope)
                where c.target is null and c.origin <> unheard_from.peer and c.scope = any (atoll.scopes_of(unheard_from.peer))
                  and case when c.op = 'M' then c.vals[1]::bigint > coalesce(v.n, 0)
                           else v.before is null or c.xid >= v.before or c.origin <> atoll.me() and c.at > v.stamp end))
     where told is not null;
end;

-- A node that stands by receives from another one, and says how far it has heard everybody: what it has not is kept
-- for it, but no WAL.
create or replace function atoll.note_heard(peer integer, told jsonb) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    if exists (select from pg_replication_slots where slot_name = 'atoll_to_' || peer and not active) then
        perform atoll.drop_slot('atoll_to_' || peer);
    end if;
    update atoll.progress p set heard_at = now(), xid = greatest(p.xid, atoll.unheard_from(note_heard.peer, told)) where p.peer = note_heard.peer;
end $$;

-- Deletes changes that every member has applied and every cursor has passed; then, for the sake of the disk,
-- those beyond the bounds, and remembers which members and cursors missed them. Says how many went.
create or replace function atoll.trim(most integer default 20000) returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    oldest constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
    read_to constant xid8 := (select min(xid) from atoll.cursor);
    applied xid8;
    gone    bigint;
begin
    perform atoll.note_progress();
    -- Without a peer there is nobody to send to: whoever joins is seeded from the tables.
    -- Nor is anything kept for a member that nobody waits for.
    select least(coalesce(min(xid), oldest), read_to) into applied from atoll.progress p
     where not (atoll.is_absent(p.peer) and p.heard_at < now() - interval '1 hour');
    -- Marks go first: whoever copies the log later must not find one whose changes are gone.
    with gone as (
        delete from atoll.change m where m.op = 'M' and m.xid < applied returning m.origin, m.scope, m.xid
    )
    update atoll.heard h set trimmed = g.xid
      from (select origin, scope, max(xid) as xid from gone group by origin, scope) g
     where h.origin = g.origin and h.scope = g.scope;
    delete from atoll.change c where (c.origin, c.seq) in (
        select d.origin, d.seq from atoll.change d left join atoll.heard h using (origin, scope)
         where d.op <> 'M' and (read_to is null or d.xid < read_to)
           and case when d.target is not null then d.xid < coalesce((select p.xid from atoll.progress p where p.peer = d.target), oldest)
                    when d.scope = 'local' or d.origin <> atoll.me() and not atoll.relays() then d.xid < oldest
                    else d.xid <= h.trimmed end
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
    began    constant timestamptz := clock_timestamp();
    old      xid8;
    gone     bigint := 0;
begin
    select max(xid) into old from atoll.waypoint where made_at < now() - atoll.setting('change_retention')::interval;
    -- Deleting does not shrink the file: what has been freed is used again before it grows. So it is worth a look when
    -- it has grown, and otherwise now and then, so that looking takes no more than a two hundredth of a core.
    if size > bound and (size > coalesce(measured, 0) or began > coalesce(nullif(current_setting('atoll.log_look_at', true), ''), '-infinity')::timestamptz) then
        perform set_config('atoll.log_measured', size::text, false);
        select greatest(old, max(xid)) into old
          from (select d.xid, sum(200 + pg_column_size(d.vals) + coalesce(pg_column_size(d.prevs), 0)) over (order by d.xid desc) as kept
                  from atoll.change d where d.target is null) d
         where kept > bound / 4 * 3;
        perform set_config('atoll.log_look_at', (clock_timestamp() + 200 * (clock_timestamp() - began))::text, false);
    end if;
    if old is not null then
        delete from atoll.change d where d.xid <= old
           and (d.target is null or exists (select from atoll.progress p where p.peer = d.target and p.heard_at < now() - interval '1 hour'));
        get diagnostics gone = row_count;
        if gone > 0 then
            delete from atoll.change m where m.op = 'M' and m.xid = (
                select min(k.xid) from atoll.change k where k.op = 'M' and k.origin = m.origin and k.scope = m.scope and k.xid > old);
            -- Whose slot still has them gets them from the WAL.
            update atoll.progress p set cut = old,
                   missed = p.missed or not s.is_kept, misses = p.misses + (not s.is_kept)::integer
              from (select i.peer, i.copied and exists (select from pg_replication_slots r where r.slot_name = 'atoll_to_' || i.peer and r.wal_status <> 'lost') as is_kept
                      from atoll.progress i) s
             where s.peer = p.peer and p.xid <= old;
            update atoll.cursor set missed = true where xid <= old;
        end if;
    end if;
    return gone;
end $$;
