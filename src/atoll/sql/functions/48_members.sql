-- Members that go, that are away, and what may be forgotten because everybody knows it.

-- From now on nobody but the node itself writes here, or applications may again. They are sent away once that is so,
-- because a session that is open goes on as it began.
drop routine if exists atoll.hold_writes(boolean);
create or replace procedure atoll.hold_writes(is_held boolean)
language plpgsql as $$
declare
    setting constant text := case when is_held then 'set default_transaction_read_only = ' else 'reset default_transaction_read_only' end;
begin
    begin
        execute format('alter database %I %s', current_database(), setting || case when is_held then 'on' else '' end);
    exception when insufficient_privilege then
        perform atoll.refuse('writes-not-held', format('cannot hold the writes of applications: %s does not own the database', current_user),
                             hint => format('alter database %I owner to %I', current_database(), current_user), state => 'AT003');
    end;
    execute format('alter role %I in database %I %s', current_user, current_database(), setting || case when is_held then 'off' else '' end);
    commit;
    perform pg_terminate_backend(s.pid) from pg_stat_activity s join pg_roles r on r.oid = s.usesysid
     where s.datname = current_database() and s.backend_type = 'client backend' and s.usename not in (current_user, 'atoll_link')
       and (not r.rolsuper or (select u.rolsuper from pg_roles u where u.rolname = current_user));
end $$;

-- The neighbours that have not confirmed this place in the WAL, and how their links are.
create or replace function atoll.behind(place pg_lsn) returns table (number integer, name text, link text, bytes bigint)
language sql stable set search_path = pg_catalog
begin atomic
    select p.number, p.name, coalesce(l.state, 'none'), coalesce(pg_wal_lsn_diff(place, s.confirmed_flush_lsn), 0)::bigint
      from atoll.neighbour n join atoll.peers() p on p.number = n.number
      left join pg_replication_slots s on s.slot_name = 'atoll_to_' || n.number
      left join atoll.link_state l on l.peer = n.number
     where n.in_use and (s.slot_name is not null or n.role <> 'down')
       and (s.confirmed_flush_lsn is null or s.confirmed_flush_lsn < place)
     order by 1;
end;

-- Until when the log can keep what an absent member misses: it is bounded by age and by size. After that, the member
-- gets a copy of everything.
create or replace function atoll.kept_until(peer integer) returns timestamptz
language sql stable set search_path = pg_catalog
return (
    with away as (
        select p.heard_at, extract(epoch from now() - p.heard_at) as seconds, pg_table_size('atoll.change')::numeric as size,
               atoll.setting('change_bytes_max')::numeric as bound
          from atoll.progress p where p.peer = kept_until.peer and p.heard_at < now() - interval '1 minute' and not p.missed
    )
    select least(heard_at + atoll.setting('change_retention')::interval,
                 case when size > 1e6 then now() + least(greatest(bound - size, 0) / (size / seconds), 1e8) * interval '1 second' end)
      from away);

-- The stamp up to which this node has everything that any member wrote, as far as it may have it and nothing is parked.
create or replace function atoll.heard_up_to() returns bigint
language sql stable set search_path = pg_catalog
return (
    select least(min(coalesce(o.covered, 0)), (select min((c.change->>'at')::bigint) - 1 from atoll.parked c), p.covered)
      from atoll.pulse p
      left join atoll.peers() m on not atoll.is_absent(m.number)
      left join lateral (select atoll.known_of(g) as covered from atoll.heard g where g.origin = m.number and g.scope = 'global') o on true
     where m.number is not null or not exists (select from atoll.peers() a where not atoll.is_absent(a.number))
     group by p.covered);

-- The stamp up to which every member has everything. A node says in its marks how far it is; who is silent holds the
-- rest up, until it is back or shut out.
create or replace function atoll.settled_up_to() returns bigint
language sql stable set search_path = pg_catalog
return least(atoll.heard_up_to(), (
    select min(coalesce((h.others->>'@heard')::bigint, 0))
      from atoll.peers() m left join atoll.heard h on h.origin = m.number and h.scope = 'global'
     where not atoll.is_absent(m.number)));

-- Forgets rows that were deleted so long ago that everybody knows it and no backup that is still used holds them.
-- A table is gone through some pages at a time; the whole takes a while. Says how many were forgotten.
create or replace function atoll.forget_deleted(pages integer default 500) returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    bound   constant bigint := least(atoll.settled_up_to(), atoll.now()) - (extract(epoch from atoll.setting('tombstone_retention')::interval) * 1000)::bigint * 4194304;
    t       record;
    size    bigint;
    gone    bigint;
    total   bigint := 0;
begin
    if bound is null or bound <= 0 or atoll.is_absent(atoll.me()) then
        return 0;
    end if;
    for t in select l.name, l.side, l.swept from atoll.local_table l where l.kind = 'merge' and l.problem is null order by l.name loop
        size := pg_relation_size(format('atoll_side.%I', t.side)) / current_setting('block_size')::bigint;
        continue when size = 0;
        execute format('delete from atoll_side.%I where ctid >= $1::text::tid and ctid < $2::text::tid and atoll_death < $3 and atoll_aside is null and %s', t.side,
                       coalesce('greatest(atoll_birth, ' || atoll.list(t.name, 'value', '{c}') || ') < atoll_death', 'coalesce(atoll_birth, 0) < atoll_death'))
          using format('(%s,0)', t.swept), format('(%s,0)', t.swept + pages), bound;
        get diagnostics gone = row_count;
        total := total + gone;
        update atoll.local_table l set swept = n.swept
          from (select case when t.swept + pages >= size then 0 else t.swept + pages end as swept) n
         where l.name = t.name and l.swept <> n.swept;
    end loop;
    return total;
end $$;
