-- The shape of a shared table is known to the functions made for it and to every other node. Event triggers see what
-- changes it, and either tell the other nodes or refuse.

-- What must stay as it is, as text.
create or replace function atoll.shape_of(t oid) returns text
language sql stable
return concat_ws(E'\n',
    (select string_agg(format('%I %s %s', attname, format_type(atttypid, -1), attgenerated), ', ' order by attnum)
       from pg_attribute where attrelid = t and attnum > 0 and not attisdropped),
    (select string_agg(concat_ws(' ', indisprimary, indkey, indclass, indnullsnotdistinct, indimmediate, pg_get_expr(indexprs, indrelid), pg_get_expr(indpred, indrelid)), ', '
                       order by indisprimary desc, indkey::text, indexrelid)
       from pg_index where indrelid = t and indisunique),
    (select string_agg(conname, ', ' order by conname) from pg_constraint where conrelid = t and contype = 'x'));

create or replace function atoll.guard_shape() returns event_trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
    -- A new partition is captured from its first row.
    perform atoll.set_triggers(l.name) from atoll.local_table l join pg_class c on c.oid = l.relid
      where c.relkind = 'p' and l.problem is null and to_regproc(atoll.generated(l.side, 'merge')) is not null;
    -- A new table changes nothing about those that are there.
    if tg_tag <> 'CREATE TABLE' and current_setting('atoll.altering', true) is distinct from 'on' then
        perform atoll.capture_shapes();
    end if;
end $$;

create or replace function atoll.guard_drop() returns event_trigger
language plpgsql security definer set search_path = pg_catalog as $$
declare
    bad text;
begin
    select l.name into bad from pg_event_trigger_dropped_objects() d join atoll.local_table l on l.relid = d.objid
     where d.classid = 'pg_class'::regclass and d.objsubid = 0 and l.problem is null limit 1;
    if bad is not null then
        perform atoll.refuse('table-in-use', format('cannot drop shared table %s', bad),
            'The other nodes have it too, and its rows would come back from there.', format('End the sharing first: select atoll.unshare(%L)', bad));
    end if;
end $$;

create or replace function atoll.set_guards() returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if not exists (select from pg_event_trigger where evtname = 'atoll_guard_shape' and cardinality(evttags) = 5) then
        drop event trigger if exists atoll_guard_shape;
        drop event trigger if exists atoll_guard_drop;
        create event trigger atoll_guard_shape on ddl_command_end
            when tag in ('ALTER TABLE', 'CREATE TABLE', 'CREATE INDEX', 'DROP INDEX', 'ALTER INDEX') execute function atoll.guard_shape();
        create event trigger atoll_guard_drop on sql_drop execute function atoll.guard_drop();
    end if;
exception when insufficient_privilege then
    return;   -- shapes are looked at now and then instead
end $$;
