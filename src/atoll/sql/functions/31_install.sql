-- Carrying declarations out on this node: what atoll.shared_table says is compared with what is there.
--
-- install_tables runs when a declaration is made or arrives and again every few seconds. A table that cannot
-- be shared here keeps its reason in atoll.local_table.problem; its changes wait in atoll.parked.

-- It waits for a lock only so long: on arrival, the link waits with it.
create or replace function atoll.install_tables() returns void
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '5s' as $$
declare
    d      record;
    reason text;
begin
    perform pg_advisory_xact_lock(x'61746f6c'::int, 2);
    for d in select l.name from atoll.local_table l where not exists (select from atoll.shared_table s where s.name = l.name) loop
        perform atoll.uninstall_table(d.name);
    end loop;
    for d in select s.*, l.name is not null as here, l.problem
               from atoll.shared_table s left join atoll.local_table l using (name)
              where l.name is null or l.problem is not null or (l.kind, l.merge, l.scope, l.scope_column) is distinct from (s.kind, s.merge, s.scope, s.scope_column)
                 or not atoll.is_table(s.name, l.relid)
              order by s.declared
    loop
        begin
            if d.here then
                perform atoll.uninstall_table(d.name);
            end if;
            perform atoll.install_table(d.name, d.kind, d.merge, d.scope, d.scope_column, d.definition, d.declared);
        exception when others then
            get stacked diagnostics reason = message_text;
            if atoll.stamp_node(d.declared) = atoll.me() and not d.here and current_setting('session_replication_role') <> 'replica' then
                raise;
            end if;
            insert into atoll.local_table (name, side, kind, merge, scope, scope_column, relid, problem)
            values (d.name, d.name, d.kind, d.merge, d.scope, d.scope_column, 0, reason)
            on conflict (name) do update set problem = excluded.problem;
        end;
    end loop;
    perform atoll.apply_schema();
end $$;

create or replace function atoll.is_table(name text, relid oid) returns boolean
language sql stable
return exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = relid and format('%I.%I', n.nspname, c.relname) = name);

create or replace function atoll.uninstall_table(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    t    atoll.local_table;
    part text;
    rel  record;
begin
    select * into t from atoll.local_table where name = of_table;
    for rel in select g.tgname, atoll.qualified(g.tgrelid) as tbl from pg_trigger g
                where g.tgname like 'atoll\_capture%' and g.tgrelid in (select r.relid from pg_partition_tree(t.relid) r union select t.relid) loop
        execute format('drop trigger %I on %s', rel.tgname, rel.tbl);
    end loop;
    execute format('drop table if exists atoll_side.%I cascade', t.side);
    for part in select p.oid::regprocedure::text from pg_proc p
                 where p.pronamespace = 'atoll_side'::regnamespace and p.proname like replace(replace(left(t.side, 48), '\', '\\'), '_', '\_') || '\_\_%'
                   and format('atoll_side.%I', p.proname) in (select atoll.generated(t.side, x) from unnest(array['read', 'write', 'revive', 'join', 'absorb',
                       'insert', 'update', 'delete', 'truncate', 'merge', 'merge_slowly', 'seed', 'guard', 'tell', 'settle']) x) loop
        execute 'drop function if exists ' || part || ' cascade';
    end loop;
    delete from atoll.local_column where tbl = of_table;   -- foreign keys do not act where changes arrive
    delete from atoll.local_shape where tbl = of_table;
    delete from atoll.local_table where name = of_table;
    perform atoll.render_dispatch();
end $$;

create or replace function atoll.install_table(of_table text, as_kind text, as_merge jsonb, of_scope text, by_column text, definition text, declared bigint) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    merge constant jsonb := as_merge;
    t regclass := to_regclass(of_table);
    c atoll.local_column;
begin
    if t is null then
        perform atoll.make_table(of_table, definition);
        t := of_table::regclass;
    end if;
    delete from atoll.schema_item i where i.tbl = of_table and i.stamp <= declared;
    as_merge := atoll.merge_now(of_table, as_merge);
    perform atoll.check_shareable(t, as_kind, as_merge);
    insert into atoll.local_table (name, side, kind, merge, scope, scope_column, relid, shape)
    values (of_table, case when length(of_table) <= 48 then of_table else left(of_table, 40) || '~' || left(md5(of_table), 7) end, as_kind, merge, of_scope, by_column, t, atoll.shape_of(t));
    insert into atoll.local_column (tbl, name, ordinal, type, wire, is_key, equals, policy, together, fold, in_unique)
    select of_table, a.attname, row_number() over (order by k.place nulls last, a.attnum),
           format_type(a.atttypid, -1),
           case when y.typcategory = 'A' or y.typarray = 0 or y.typtype = 'c' or y.typdelim <> ',' then 'text' else format_type(a.atttypid, -1) end,
           k.place is not null,
           case when k.place is not null then atoll.equality(a.atttypid, i.indclass[k.place - 1]) end,
           case when k.place is not null then 'key' when a.attname = by_column then 'scope' when p.policy is null or p.policy = 'group' then 'lww' else p.policy end,
           case when p.policy = 'group' then p.arg end,
           case when p.policy = 'function' then p.arg end,
           exists (select from pg_index u where u.indrelid = t and u.indisunique and not u.indisprimary
                     and (a.attnum = any (u.indkey) or 0 = any (u.indkey)))
      from pg_attribute a
      join pg_type y on y.oid = a.atttypid
      join pg_index i on i.indrelid = t and i.indisprimary
      left join lateral (select place from unnest(i.indkey[0:i.indnkeyatts - 1]::int2[]) with ordinality x (num, place) where num = a.attnum) k on true
      left join lateral (select split_part(v, ':', 1) as policy, nullif(substr(v, strpos(v || ':', ':') + 1), '') as arg from (select as_merge->>a.attname as v) x) p on true
     where a.attrelid = t and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
    perform atoll.order_columns(of_table);
    perform atoll.note_shape(of_table);
    if as_kind = 'append' then
        perform atoll.install_append(of_table);
    else
        for c in select * from atoll.local_column l where l.tbl = of_table and l.policy = 'function' loop
            perform atoll.check_laws(of_table, c.name, c.type, c.fold);
        end loop;
        perform atoll.install_merge(of_table);
    end if;
    perform atoll.set_triggers(of_table);
    perform atoll.render_dispatch();
    perform atoll.take_up(of_table, declared);
end $$;

-- A schema that the node has just made for a table or a type belongs to the application, like these.
create or replace function atoll.give_schema(schema oid) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if (select nspowner = current_user::regrole from pg_namespace where oid = schema) then
        execute format('alter schema %s owner to app', schema::regnamespace);
    end if;
end $$;

create or replace function atoll.make_table(of_table text, definition text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    statement text;
    name      text;
    part      record;
    to_app    constant boolean := of_table not like 'atoll.%' and exists (select from pg_roles where rolname = 'app' and pg_has_role(oid, 'set'));
begin
    for statement in select value from jsonb_array_elements_text(definition::jsonb) loop
        if statement like '-- if possible: %' then
            begin
                execute substr(statement, 17);
            exception when others then null;   -- the other table is not here, or not yet
            end;
        elsif statement like '-- type %' then
            begin
                execute substr(statement, strpos(statement, ': create ') + 2);
                if to_app then
                    name := substr(statement, 9, strpos(statement, ': create ') - 9);
                    execute format('alter type %s owner to app', name);
                    perform atoll.give_schema((select typnamespace from pg_type where oid = name::regtype));
                end if;
            exception when duplicate_object then null;   -- it is here already, perhaps with more in it
            end;
        else
            execute statement;
        end if;
    end loop;
    if to_app then
        for part in select atoll.qualified(relid) as name from pg_partition_tree(of_table::regclass) union select of_table loop
            execute format('alter table %s owner to app', part.name);
        end loop;
        perform atoll.give_schema((select relnamespace from pg_class where oid = of_table::regclass));
    end if;
end $$;

create or replace function atoll.install_merge(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    vars jsonb := atoll.variables(of_table);
    side text := vars->>'side';
begin
    execute format('create table %s (%s, %s atoll_birth bigint, atoll_death bigint, atoll_epoch bigint, atoll_aside boolean, '
                   'atoll_state jsonb, atoll_kept jsonb, primary key (%s)) with (fillfactor = 85)', side,
                   atoll.list(of_table, 'key', '{c} {t}'), coalesce(atoll.list(of_table, 'value', '{c} bigint') || ',', ''), vars->>'keys');
    execute format('create index on %s (atoll_birth) where atoll_aside', side);
    perform atoll.render_merge(of_table, vars);
end $$;

-- The functions of a table, rendered from the templates; also where a new version has new templates.
drop function if exists atoll.render_merge(text);
create or replace function atoll.render_merge(of_table text, vars jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    side constant text := vars->>'side';
begin
    vars := vars || atoll.again_variables(vars) || jsonb_build_object(
        'insert_rows', atoll.render(atoll.insert_rows_template(), vars || '{"source": "new_rows"}'),
        'delete_rows', atoll.render(atoll.delete_rows_template(), vars || '{"source": "old_rows"}'),
        -- A partition's TRUNCATE takes that partition only, and rows that the trigger of another has not marked yet.
        'truncate_rows', atoll.render(atoll.delete_rows_template(), vars || jsonb_build_object('source', format(
            '(select t.* from %s t join %s s on %s where (t.tableoid = tg_relid or t.tableoid in (select relid from pg_partition_tree(tg_relid)))'
            ' and greatest(s.atoll_birth%s) > coalesce(s.atoll_death, 0))', vars->>'table', side, vars->>'t_is_s', vars->>'side_stamps'))));
    vars := vars || jsonb_build_object('update_rows', atoll.render(atoll.update_rows_template(), vars || jsonb_build_object(
        'moved_away', atoll.render(atoll.delete_rows_template(), vars || jsonb_build_object('source',
            format('(select o.* from old_rows o where not exists (select from new_rows r where %s))', vars->>'o_is_r'))),
        'moved_here', atoll.render(atoll.insert_rows_template(), vars || jsonb_build_object('source',
            format('(select r.* from new_rows r left join old_rows o on %s left join %s m on %s where o.%s is not distinct from null or m.atoll_birth is null)',
                   vars->>'o_is_r', side, vars->>'m_is_r', vars->>'first_key'))))));
    execute atoll.render(atoll.row_template(), vars);
    execute atoll.render(atoll.capture_template(), vars);
    execute atoll.render(atoll.merge_template(), vars || jsonb_build_object(
        'merge_one', atoll.render(atoll.merge_rows_template(), vars || atoll.arrived(of_table, true)),
        'merge_many', atoll.render(atoll.merge_rows_template(), vars || atoll.arrived(of_table, false))));
    execute atoll.render(atoll.seed_template(), vars);
end $$;

-- The capture triggers of a table and of all its partitions; also mends what somebody dropped or switched off.
create or replace function atoll.set_triggers(of_table text) returns integer
language plpgsql set search_path = pg_catalog as $$
declare
    t      atoll.local_table;
    wanted record;
    mended integer := 0;
begin
    select * into t from atoll.local_table where name = of_table;
    for wanted in
        select atoll.qualified(r.relid) as rel, g.oid, g.tgenabled, w.*
          from (select relid from pg_partition_tree(t.relid) union select t.relid) r
          cross join (values ('insert', 'after insert', 'referencing new table as new_rows'),
                       ('update', 'after update', 'referencing old table as old_rows new table as new_rows'),
                       ('delete', 'after delete', 'referencing old table as old_rows'),
                       ('truncate', 'before truncate', '')) w (part, event, tables)
               left join pg_trigger g on g.tgrelid = r.relid and g.tgname = 'atoll_capture_' || w.part
         where g.oid is null or g.tgenabled <> 'O'
    loop
        if wanted.oid is null then
            execute format('create trigger %I %s on %s %s for each statement execute function %s()', 'atoll_capture_' || wanted.part,
                           wanted.event, wanted.rel, case when t.kind = 'append' and wanted.part <> 'insert' then '' else wanted.tables end,
                           atoll.generated(t.side, case when t.kind = 'append' and wanted.part <> 'insert' then 'guard' else wanted.part end));
        else
            execute format('alter table %s enable trigger %I', wanted.rel, 'atoll_capture_' || wanted.part);
        end if;
        mended := mended + 1;
    end loop;
    return mended;
end $$;

-- Rows that were there before the table was shared count as written when it was declared.
-- (Written as a local statement's changes even where an arriving declaration is the cause.)
create or replace function atoll.take_up(of_table text, declared bigint) returns void
language plpgsql set search_path = pg_catalog set session_replication_role = origin as $$
declare
    t    atoll.local_table;
    vars jsonb;
    at   bigint := (declared >> 16 << 16) | atoll.me();
    is_empty boolean;
begin
    execute format('select not exists (select from %s)', of_table) into is_empty;
    if is_empty then
        perform atoll.unpack(of_table);
        return;
    end if;
    select * into t from atoll.local_table where name = of_table;
    vars := atoll.variables(of_table);
    if t.kind = 'merge' then
        perform set_config('atoll.quiet', 'on', true);
        execute coalesce('update ' || of_table || ' r set ' || atoll.canonical(of_table, '{c} = {f}(r.{c})', ', ')
                         || ' where not (' || (vars->>'canonical_r') || ')', 'select');
        perform set_config('atoll.quiet', '', true);
    end if;
    if atoll.unpack(of_table) then
        return;
    end if;
    if t.kind = 'merge' then
        execute format('insert into %s (%s, atoll_birth) select %s, %s from %s', vars->>'side', vars->>'keys', vars->>'keys', at, of_table);
    end if;
    execute format($f$
        insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals%s)
        select atoll.me(), nextval('atoll.change_seq'), %L, 'I', %s, 0, count(*), array[%s], array[%s]%s
          from (select r.*, %s as atoll_chunk from %s r) r group by atoll_chunk%s $f$,
        vars->>'and_scope', of_table, at, vars->>'col_names', vars->>'agg_literals', vars->>'scope_r', vars->>'chunk', of_table, vars->>'by_scope');
end $$;

-- Tables that an older version installed get the functions of this one. `version` names the function files.
create or replace function atoll.render_anew(version text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    t record;
begin
    if 'functions ' || version = (select name from atoll.migration where name like 'functions %' order by applied_at desc limit 1) then
        return;
    end if;
    for t in select name, kind from atoll.local_table where problem is null loop
        if t.kind = 'append' then
            perform atoll.install_append(t.name);
        else
            perform atoll.render_merge(t.name, atoll.variables(t.name));
        end if;
    end loop;
    update atoll.pipeline_state set declared = null;
    insert into atoll.migration (name, applied_at) values ('functions ' || version, clock_timestamp())
    on conflict (name) do update set applied_at = excluded.applied_at;
end $$;
