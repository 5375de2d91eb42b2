-- Last writer wins on natively replicated tables, written as well as we know how: the baseline of divergence.py.
--
-- Stamps never run backwards on a row, ties go to the greater node, a deletion is a tombstone in a table of its
-- own that is replicated too. What this cannot mend: an UPDATE that finds no row here fires no trigger.

alter table item add stamp timestamptz, add writer int;
create table gone (id bigint primary key, stamp timestamptz not null, writer int not null);

create function now_here() returns timestamptz language sql volatile
return clock_timestamp() + current_setting('bench.skew_ms')::int * interval '1 millisecond';

-- What is written here gets a stamp later than what it replaces.
create function stamp_item() returns trigger language plpgsql as $$
begin
    new.stamp := greatest(now_here(), (
        select max(x) + interval '1 microsecond'
          from (select old.stamp where tg_op = 'UPDATE' union all select g.stamp from gone g where g.id = new.id) s (x)));
    new.writer := current_setting('bench.node')::int;
    return new;
end $$;
create trigger stamp before insert or update on item for each row execute function stamp_item();

create function bury_item() returns trigger language plpgsql as $$
begin
    insert into gone values (old.id, greatest(now_here(), old.stamp + interval '1 microsecond'),
                             current_setting('bench.node')::int)
    on conflict (id) do update set stamp = excluded.stamp, writer = excluded.writer
     where (gone.stamp, gone.writer) < (excluded.stamp, excluded.writer);
    return old;
end $$;
create trigger bury before delete on item for each row execute function bury_item();

-- What arrives: the later one of the two stays.
create function arrive_item() returns trigger language plpgsql as $$
declare
    here public.item;
begin
    if exists (select from public.gone g where g.id = new.id and (g.stamp, g.writer) > (new.stamp, new.writer)) then
        return null;
    elsif tg_op = 'UPDATE' then
        return case when (new.stamp, new.writer) > (old.stamp, old.writer) then new end;
    end if;
    select i.* into here from public.item i where i.id = new.id for update;
    if not found then
        return new;
    elsif (new.stamp, new.writer) > (here.stamp, here.writer) then
        update public.item i set a = new.a, b = new.b, stamp = new.stamp, writer = new.writer where i.id = new.id;
    end if;
    return null;
end $$;
create trigger arrive before insert or update on item for each row execute function arrive_item();
alter table item enable replica trigger arrive;

create function arrive_gone() returns trigger language plpgsql as $$
begin
    delete from public.item i where i.id = new.id and (i.stamp, i.writer) < (new.stamp, new.writer);
    if tg_op = 'UPDATE' then
        return case when (new.stamp, new.writer) > (old.stamp, old.writer) then new end;
    elsif exists (select from public.gone g where g.id = new.id) then
        update public.gone g set stamp = new.stamp, writer = new.writer
         where g.id = new.id and (g.stamp, g.writer) < (new.stamp, new.writer);
        return null;
    end if;
    return new;
end $$;
create trigger arrive before insert or update on gone for each row execute function arrive_gone();
alter table gone enable replica trigger arrive;
create publication mesh for table item, gone with (publish = 'insert, update');
