-- Schema changes: recorded where they are made, carried out everywhere else.
--
-- Each step of a change is the latest word on an item (a column, a trait of it, a constraint, an index) or has been
-- overruled by a later one: so nodes that get the same changes in any order end with the same table. A step that
-- cannot be taken yet waits with its reason and is tried again.

-- Runs DDL with the rights of the table's owner: what it evaluates is written by applications.
create or replace function atoll.run_as_owner(t regclass, statement text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    owner constant name := (select pg_get_userbyid(relowner) from pg_class where oid = t);
begin
    if owner <> current_user and (select rolsuper from pg_roles where rolname = current_user) then
        execute format('create function atoll_side.as_owner() returns void language plpgsql security definer set search_path = pg_catalog as %L',
                       format('begin execute %L; end', statement));
        execute format('alter function atoll_side.as_owner() owner to %I', owner);
        execute 'select atoll_side.as_owner()';
        drop function atoll_side.as_owner();
    else
        execute statement;
    end if;
end $$;

-- The present name of a column that has been renamed since.
create or replace function atoll.now_called(of_table text, col text) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    further text;
begin
    for step in 1..20 loop
        select op->>'to' into further from atoll.schema_item where tbl = of_table and item = 'c:' || col and op->>'do' = 'rename';
        exit when further is null;
        col := further;
    end loop;
    return col;
end $$;

create or replace function atoll.set_item(of_table text, of_item text, at bigint, what jsonb) returns void
language sql
begin atomic
    insert into atoll.schema_item (tbl, item, stamp, op) values (of_table, of_item, at, what)
    on conflict (tbl, item) do update set stamp = excluded.stamp, op = excluded.op where schema_item.stamp <= excluded.stamp;
end;

-- What a step names, by the name that it has here now.
create or replace function atoll.item_of(of_table text, op jsonb) returns text
language sql stable
return case op->>'do'
    when 'constraint' then 'k:' || (op->>'name')
    when 'index' then 'i:' || (op->>'name')
    when 'add' then 'c:' || (op->>'column')
    when 'rename' then 'c:' || (op->>'column')
    when 'drop' then 'c:' || atoll.now_called(of_table, op->>'column')
    else format('c:%s:%s', atoll.now_called(of_table, op->>'column'), op->>'do')
end;

create or replace function atoll.has_column(t oid, col text) returns boolean
language sql stable
return exists (select from pg_attribute where attrelid = t and attname = col and attnum > 0 and not attisdropped);

-- The sidecar, the kept values and what is known of the columns follow a step that the table has taken.
create or replace function atoll.follow_op(l atoll.local_table, at bigint, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    col   constant text := op->>'column';
    becomes constant text := op->>'to';
    side  constant text := format('atoll_side.%I', l.side);
    is_merge constant boolean := l.kind = 'merge';
    of_item constant text := atoll.item_of(l.name, op);
    had   atoll.schema_item;
    was_quiet constant text := coalesce(current_setting('atoll.quiet', true), '');
begin
    select * into had from atoll.schema_item i where i.tbl = l.name and i.item = of_item;
    case op->>'do'
        when 'rename' then
            if exists (select from atoll.local_column c where c.tbl = l.name and c.name = col) then
                update atoll.local_column c set name = becomes where c.tbl = l.name and c.name = col;
                if is_merge then
                    execute format('alter table %s rename column %I to %I', side, col, becomes);
                    execute format('update %s set atoll_kept = atoll_kept - %L || jsonb_build_object(%L, atoll_kept->%L) where atoll_kept ? %L', side, col, becomes, col, col);
                    execute format('update %s set atoll_state = atoll_state - %L || jsonb_build_object(%L, atoll_state->%L) where atoll_state ? %L', side, col, becomes, col, col);
                end if;
            end if;
            update atoll.schema_item i set item = 'c:' || becomes || substr(i.item, length('c:' || col) + 1)
             where i.tbl = l.name and i.item in (select format('c:%s:%s', col, x) from unnest(array['type', 'default', 'not_null']) x);
            perform atoll.set_item(l.name, 'c:' || becomes, at, jsonb_build_object('do', 'came', 'fill', had.op->>'fill',
                'is_added', coalesce(had.op->>'do' in ('add', 'came') and coalesce((had.op->>'is_added')::boolean, true), false)));
        when 'drop' then
            if exists (select from atoll.local_column c where c.tbl = l.name and c.name = col) then
                delete from atoll.local_column c where c.tbl = l.name and c.name = col;
                if is_merge then
                    -- A row that only a write to this column had kept from its deletion is deleted, as it is where that
                    -- write has not been seen.
                    perform set_config('atoll.quiet', 'on', true);
                    execute atoll.render('with gone as (delete from {{table}} t using {{side}} s where {{t_is_s}} and s.atoll_death > greatest(s.atoll_birth{{s_stamps}}) returning t.*)
                        update {{side}} m set atoll_kept = jsonb_object({{stamp_names}}, {{r_texts}}) from gone r where {{m_is_r}}', atoll.variables(l.name));
                    perform set_config('atoll.quiet', was_quiet, true);
                    execute format('alter table %s drop column %I', side, col);
                    execute format('update %s set atoll_kept = atoll_kept - %L where atoll_kept ? %L', side, col, col);
                    execute format('update %s set atoll_state = nullif(atoll_state - %L, ''{}'') where atoll_state ? %L', side, col, col);
                end if;
            end if;
        when 'add' then
            if not op ? 'generated' and not exists (select from atoll.local_column c where c.tbl = l.name and c.name = col) then
                insert into atoll.local_column (tbl, name, ordinal, type, wire, is_key, policy)
                select l.name, col, max(c.ordinal) + 1, 'text', 'text', false, 'lww' from atoll.local_column c where c.tbl = l.name;
                if is_merge then
                    execute format('alter table %s add column %I bigint', side, col);
                    execute format('update %s set atoll_kept = atoll_kept || jsonb_build_object(%L, %L::text) where atoll_kept is not null', side, col, op->>'fill');
                end if;
            end if;
            if had.op->>'do' = 'drop' or had.op ? 'dropped' then
                op := op || jsonb_build_object('dropped', case had.op->>'do' when 'drop' then had.stamp else (had.op->>'dropped')::bigint end);
            end if;
        else null;
    end case;
    perform atoll.set_item(l.name, of_item, at, op);
end $$;

-- What is known of a table's columns is read anew from the catalog, and its functions are made anew.
create or replace function atoll.refit(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    l atoll.local_table;
begin
    select * into l from atoll.local_table where name = of_table;
    perform atoll.order_columns(of_table);
    if l.kind = 'append' then
        perform atoll.install_append(of_table);
    else
        perform atoll.render_merge(of_table, atoll.variables(of_table));
    end if;
    perform atoll.set_triggers(of_table);
    update atoll.local_table t set shape = atoll.shape_of(t.relid) where t.name = of_table;
    perform atoll.note_shape(of_table);
    if l.kind = 'merge' then   -- a unique key that is gone sets nobody aside
        execute format('select %s() where exists (select from atoll_side.%I where atoll_aside)', atoll.generated(l.side, 'revive'), l.side);
    end if;
end $$;

create or replace function atoll.note_shape(of_table text) returns void
language sql
begin atomic
    insert into atoll.local_shape (tbl, shape) select l.name, atoll.shape_now(l.relid) from atoll.local_table l where l.name = of_table
    on conflict (tbl) do update set shape = excluded.shape;
end;

-- Types, unique columns and the order of columns. Columns that were added come last, by name: so the order is the
-- same everywhere, whatever came first.
create or replace function atoll.order_columns(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    update atoll.local_column c set
        type = format_type(a.atttypid, -1),
        wire = case when y.typcategory = 'A' or y.typarray = 0 or y.typtype = 'c' or y.typdelim <> ',' then 'text' else format_type(a.atttypid, -1) end,
        in_unique = exists (select from pg_index u where u.indrelid = l.relid and u.indisunique and not u.indisprimary
                               and (a.attnum = any (u.indkey) or 0 = any (u.indkey))),
        is_added = coalesce(i.op->>'do' = 'add' or (i.op->>'is_added')::boolean, false),
        fill = i.op->>'fill',
        ordinal = -n.place
      from atoll.local_table l, pg_attribute a, pg_type y, (
        select k.name, row_number() over (order by not k.is_key, case when k.is_key then k.ordinal end,
                   coalesce(j.op->>'do' = 'add' or (j.op->>'is_added')::boolean, false),
                   case when j.op->>'do' = 'add' or (j.op->>'is_added')::boolean then k.name end collate "C", b.attnum) as place, j.op
          from atoll.local_column k
          join atoll.local_table t on t.name = k.tbl
          join pg_attribute b on b.attrelid = t.relid and b.attname = k.name
          left join atoll.schema_item j on j.tbl = k.tbl and j.item = 'c:' || k.name
         where k.tbl = of_table) n
      left join atoll.schema_item i on i.tbl = of_table and i.item = 'c:' || n.name
     where c.tbl = of_table and n.name = c.name and l.name = of_table and a.attrelid = l.relid and a.attname = c.name and y.oid = a.atttypid;
    update atoll.local_column c set ordinal = -c.ordinal where c.tbl = of_table;
end $$;

-- A column whose values a statement has computed anew counts as written by it.
create or replace function atoll.touch_column(of_table text, col text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    l    atoll.local_table;
    vars jsonb;
    wire text;
begin
    select * into l from atoll.local_table where name = of_table;
    if l.kind <> 'merge' then
        return;
    end if;
    vars := atoll.variables(of_table);
    select c.wire into wire from atoll.local_column c where c.tbl = of_table and c.name = col;
    execute atoll.render(format($f$
        with r as materialized (
            select r.*, greatest(m.%1$I, m.atoll_birth) as atoll_prev, {{chunk}} as atoll_chunk from {{table}} r join {{side}} m on {{m_is_r}}
        ), moved as (
            select atoll.stamp_after(max(atoll_prev)) as at from r
        ), marked as (
            update {{side}} m set %1$I = moved.at from r, moved where {{m_is_r}}
        )
        insert into atoll.change (origin, seq, tbl, op, at, prevs, n, cols, vals{{and_scope}})
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'U', (select at from moved), array[array_agg(atoll_prev)::text], count(*),
               array[{{key_names}}, %1$L], array[{{agg_key_literals}}, array_agg(r.%1$I::%2$s)::text]{{scope_r}}
          from r group by atoll_chunk{{by_scope}} $f$, col, wire), vars);
end $$;

-- What somebody has altered here since this node last looked becomes changes for everybody. Says what they are.
create or replace function atoll.capture_shapes() returns setof atoll.schema_change
language plpgsql security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' as $$
declare
    l    atoll.local_table;
    was  jsonb;
    becomes jsonb;
    op   jsonb;
    z    atoll.schema_change;
    away text;
begin
    for l in select k.* from atoll.local_table k where k.problem is null and k.name not like 'atoll.%' order by k.name loop
        select s.shape into was from atoll.local_shape s where s.tbl = l.name;
        continue when was is null or not exists (select from pg_class where oid = l.relid);
        becomes := atoll.shape_now(l.relid);
        continue when was = becomes and atoll.is_table(l.name, l.relid);
        z.ops := atoll.schema_ops(l.relid, was, becomes);
        perform atoll.check_reshaped(l, was, becomes, z.ops);
        if z.ops = '[]' then
            perform atoll.note_shape(l.name);
            continue;
        end if;
        for op in select * from jsonb_array_elements(z.ops) o where atoll.is_destructive(o) loop
            away := atoll.not_ready(l.name);
            if away is not null and current_setting('atoll.force_schema', true) is distinct from 'on' then
                perform atoll.refuse('members-not-ready', format('cannot change shared table %s now: not every node is there to follow', l.name),
                    format('Not ready: %s. Until they follow, they go on with what the change takes away.', away),
                    'Wait for them (atoll nodes), or do it nevertheless: atoll migrate --force, or set atoll.force_schema = on.');
            end if;
        end loop;
        z.tbl := l.name;
        z.statement := left(coalesce(current_query(), ''), 2000);
        select atoll.stamp_after(greatest(max(c.stamp), (select d.declared from atoll.shared_table d where d.name = l.name))) into z.stamp
          from atoll.schema_change c where c.tbl = l.name;
        insert into atoll.schema_change (stamp, tbl, ops, statement) values (z.stamp, z.tbl, z.ops, z.statement);
        insert into atoll.schema_done (stamp) values (z.stamp);
        perform set_config('atoll.altering', 'on', true);   -- the sidecar is altered too
        for op in select * from jsonb_array_elements(z.ops) loop
            perform atoll.follow_op(l, z.stamp, op);
        end loop;
        perform atoll.refit(l.name);
        perform set_config('atoll.altering', '', true);
        for op in select * from jsonb_array_elements(z.ops) o where o->>'do' = 'type' and not atoll.is_widening(o->>'was', o->>'type') loop
            perform atoll.touch_column(l.name, op->>'column');
        end loop;
        return next z;
    end loop;
end $$;

-- Runs DDL, and says what of it the other nodes will do too.
create or replace function atoll.migrate(statements text, force boolean default false)
returns table (tbl text, step text)
language plpgsql as $$
declare
    before constant bigint := coalesce((select max(stamp) from atoll.schema_change), 0);
    mine   constant integer := atoll.me();
    forced constant text := coalesce(current_setting('atoll.force_schema', true), '');
begin
    perform set_config('atoll.force_schema', case when force then 'on' else forced end, true);
    execute statements;
    perform atoll.capture_shapes();
    perform set_config('atoll.force_schema', forced, true);
    return query select c.tbl, atoll.say_op(o) from atoll.schema_change c, jsonb_array_elements(c.ops) with ordinality s (o, i)
                  where c.stamp > before and atoll.stamp_node(c.stamp) = mine order by c.stamp, i;
end $$;
comment on function atoll.migrate(text, boolean) is 'runs DDL here, and on all nodes what of it concerns shared tables';

create or replace function atoll.say_op(op jsonb) returns text
language sql immutable
return case op->>'do'
    when 'add' then format('add column %s %s%s%s', op->>'column', op->>'type', ' default ' || (op->>'default'), case when (op->>'not_null')::boolean then ' not null' end)
    when 'drop' then format('drop column %s', op->>'column')
    when 'rename' then format('rename column %s to %s', op->>'column', op->>'to')
    when 'type' then format('change type of column %s from %s to %s', op->>'column', op->>'was', op->>'type')
    when 'default' then format('%s', coalesce(format('set default of column %s to %s', op->>'column', op->>'default'), format('drop default of column %s', op->>'column')))
    when 'not_null' then format('column %s %s', op->>'column', case when (op->>'not_null')::boolean then 'must not be null' else 'may be null' end)
    else coalesce(format('%s %s: %s', op->>'do', op->>'name', op->>'def'), format('drop %s %s', op->>'do', op->>'name'))
end;
