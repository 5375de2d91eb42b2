-- A node without a superuser's rights, on a server that is somebody else's: what it cannot do is done another way.
--
-- It may not switch session_replication_role, unless somebody grants that: changes that were parked are then merged
-- with capture kept quiet, and the rows of a table that a declaration shares on arrival pass the trigger for arriving
-- changes. It may not read where a subscription dials: the node keeps that as a comment. It may not make event
-- triggers: shapes are compared now and then instead.

create or replace function atoll.may_switch() returns boolean
language sql stable
return has_parameter_privilege(current_user, 'session_replication_role', 'set');

create or replace function atoll.may_guard() returns boolean
language sql stable
return exists (select from pg_event_trigger where evtname = 'atoll_guard_shape');

-- Where a subscription dials, as the node said it. A node that comes through a door (setting atoll.door) left the
-- door's mark and the address in a comment; another mark than the present one means that it has to be told anew.
create or replace function atoll.dials(subscription oid) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    door constant text := coalesce(current_setting('atoll.door', true), '');
    note constant text := coalesce(obj_description(subscription, 'pg_subscription'), '');
    told text;
begin
    if door <> '' then
        return case when split_part(note, ' ', 1) = door then substr(note, length(door) + 2) else '' end;
    end if;
    execute 'select subconninfo from pg_subscription where oid = $1' into told using subscription;
    return told;
end $$;

-- How far in a peer's WAL this node has come. Who may not read the origins knows it from the running worker only.
create or replace function atoll.seen_of(peer integer) returns pg_lsn
language plpgsql stable set search_path = pg_catalog as $$
declare
    seen pg_lsn;
begin
    if has_table_privilege('pg_replication_origin_status', 'select') then
        execute 'select o.remote_lsn from pg_replication_origin_status o join pg_subscription u on o.external_id = ''pg_'' || u.oid
                  where u.subname = $1' into seen using 'atoll_from_' || peer;
    else
        select t.latest_end_lsn into seen from pg_stat_subscription t where t.subname = 'atoll_from_' || peer and t.relid is null
         order by t.latest_end_lsn desc nulls last limit 1;
    end if;
    return seen;
end $$;

-- Shared tables whose columns, key or unique constraints somebody has changed here, where no event trigger could
-- refuse that.
create or replace function atoll.changed_shapes() returns setof text
language sql stable set search_path = pg_catalog
begin atomic
    select l.name from atoll.local_table l
     where not atoll.may_guard() and l.problem is null and l.name not like 'atoll.%'
       and exists (select from pg_class where oid = l.relid) and l.shape is distinct from atoll.shape_of(l.relid)
     order by l.name;
end;

-- The trigger on arriving changes. Who may not switch roles has it look away while rows are taken up.
create or replace function atoll.set_arrival() returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if exists (select from pg_trigger where tgrelid = 'atoll.change'::regclass and tgname = 'arrive') then
        return;
    end if;
    execute 'create trigger arrive before insert on atoll.change for each row '
            || case when atoll.may_switch() then '' else $w$when (current_setting('atoll.taking_up', true) is distinct from 'on') $w$ end
            || 'execute function atoll.arrive()';
    alter table atoll.change enable replica trigger arrive;
end $$;

-- The two functions that switch roles get a shell that does without, where that has to be.
do $shells$
begin
    drop function if exists atoll.retry_parked_aloud(boolean, integer);
    drop function if exists atoll.take_up_aloud(text, bigint);
    if atoll.may_switch() then
        return;
    end if;
    alter function atoll.retry_parked(boolean, integer) rename to retry_parked_aloud;
    alter function atoll.take_up(text, bigint) rename to take_up_aloud;
    create function atoll.retry_parked(everything boolean default false, most integer default 1000)
    returns table (merged integer, remain integer)
    language plpgsql security definer set search_path = pg_catalog as $$
    begin
        perform set_config('atoll.quiet', 'on', true);
        return query select a.merged, a.remain from atoll.retry_parked_aloud(everything, most) a;
        perform set_config('atoll.quiet', '', true);
    end $$;
    create function atoll.take_up(of_table text, declared bigint) returns void
    language plpgsql set search_path = pg_catalog as $$
    begin
        perform set_config('atoll.taking_up', 'on', true);
        perform atoll.take_up_aloud(of_table, declared);
        perform set_config('atoll.taking_up', '', true);
    end $$;
end $shells$;
