-- Carrying out here what somebody changed about a shared table elsewhere, and reading changes by other shapes.

-- Everything that has arrived and has not been carried out, in the order of stamps. What cannot be done yet (a lock,
-- a row that breaks a new rule) keeps its reason and is tried again later. Says how many changes were carried out.
create or replace function atoll.apply_schema(everything boolean default false) returns integer
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '5s' as $$
declare
    z      atoll.schema_change;
    done   integer := 0;
    reason text;
    was    constant text := coalesce(current_setting('atoll.altering', true), '');
begin
    for z in select c.* from atoll.schema_change c
               join atoll.shared_table d on d.name = c.tbl and c.stamp > d.declared
               join atoll.local_table l on l.name = c.tbl and l.problem is null
               left join atoll.schema_done x using (stamp)
              where x.stamp is null or x.problem is not null and (everything or x.retry_at <= clock_timestamp())
              order by c.stamp
    loop
        begin
            perform set_config('atoll.altering', 'on', true);
            perform atoll.apply_schema_change(z);
            insert into atoll.schema_done (stamp) values (z.stamp) on conflict (stamp) do update set problem = null;
            update atoll.parked p set retry_at = clock_timestamp() where p.tbl = z.tbl;
            done := done + 1;
        exception when others then
            get stacked diagnostics reason = message_text;
            insert into atoll.schema_done (stamp, problem, retry_at) values (z.stamp, reason, clock_timestamp() + interval '1 second')
            on conflict (stamp) do update set problem = excluded.problem, tries = schema_done.tries + 1,
                retry_at = clock_timestamp() + least(interval '1 second' * 2 ^ least(schema_done.tries, 12), interval '5 minutes');
        end;
        perform set_config('atoll.altering', was, true);
    end loop;
    if done > 0 and exists (select from atoll.parked) then
        perform atoll.retry_parked();
    end if;
    return done;
end $$;

create or replace function atoll.apply_schema_change(z atoll.schema_change) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    l  atoll.local_table;
    op jsonb;
begin
    select * into l from atoll.local_table k where k.name = z.tbl;
    for op in select * from jsonb_array_elements(z.ops) loop
        case op->>'do'
            when 'add' then perform atoll.apply_add(l, z.stamp, op);
            when 'drop' then perform atoll.apply_drop(l, z.stamp, op);
            when 'rename' then perform atoll.apply_rename(l, z.stamp, op);
            when 'constraint' then perform atoll.apply_named(l, z.stamp, op);
            when 'index' then perform atoll.apply_named(l, z.stamp, op);
            else perform atoll.apply_trait(l, z.stamp, op);
        end case;
    end loop;
    perform atoll.refit(z.tbl);
    -- Each node has converted what it had; the latest of them says what holds.
    for op in select i.op from atoll.schema_item i where i.tbl = z.tbl and i.stamp = z.stamp and i.item like 'c:%' and (i.op->>'contested')::boolean loop
        perform set_config('atoll.tells', 'on', true);
        perform atoll.touch_column(z.tbl, op->>'column');
        perform set_config('atoll.tells', '', true);
    end loop;
end $$;

-- Is there a later word on an item? If it says something else, that is a conflict to be listed.
create or replace function atoll.is_overruled(of_table text, of_item text, at bigint, what jsonb) returns boolean
language plpgsql set search_path = pg_catalog as $$
declare
    i atoll.schema_item;
begin
    select * into i from atoll.schema_item k where k.tbl = of_table and k.item = of_item;
    if i.stamp is null or i.stamp <= at then
        return false;
    end if;
    perform atoll.note_overruled(of_table, of_item, at, what, i.stamp, i.op);
    return true;
end $$;

create or replace function atoll.note_overruled(of_table text, of_item text, lost_at bigint, lost jsonb, won_at bigint, won jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if not atoll.is_same_op(lost, won) then
        perform atoll.note(of_table, jsonb_build_object('item', of_item), null, 'schema', coalesce(atoll.say_op(lost), lost::text), null, lost_at,
                           coalesce(atoll.say_op(won), won::text), won_at, 'a later change of the same table, by a node that had not seen this one');
    end if;
end $$;

create or replace function atoll.alter_table(l atoll.local_table, step text, variadic words text[]) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    perform atoll.run_as_owner(l.relid, format('alter table %s ', l.name) || format(step, variadic words));
end $$;

create or replace function atoll.apply_add(l atoll.local_table, at bigint, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    col  constant text := op->>'column';
    of_item constant text := 'c:' || (op->>'column');
    had  atoll.schema_item;
begin
    select * into had from atoll.schema_item i where i.tbl = l.name and i.item = of_item;
    if atoll.is_overruled(l.name, of_item, at, op) then
        if had.op->>'do' = 'add' and not atoll.is_same_op(had.op, op) then
            perform atoll.set_item(l.name, of_item, had.stamp, had.op || '{"contested": true}');
            perform atoll.forget_kept(l, col, had.op->>'fill');
        end if;
        return;
    elsif had.op->>'do' = 'came' and atoll.has_column(l.relid, col) then
        -- Another column had been given this name by somebody who did not know of the new one.
        perform atoll.note_overruled(l.name, of_item, had.stamp, had.op, at, op);
        perform atoll.alter_table(l, 'drop column %I cascade', col);
        perform atoll.follow_op(l, had.stamp, jsonb_build_object('do', 'drop', 'column', col));
    end if;
    if not atoll.has_column(l.relid, col) then
        perform atoll.alter_table(l, 'add column %I %s%s%s%s', col, op->>'type', coalesce(' collate ' || (op->>'collation'), ''),
            case op->>'generated' when 's' then format(' generated always as (%s) stored', op->>'expression')
                                  when 'v' then format(' generated always as (%s) virtual', op->>'expression')
                                  else coalesce(' default ' || quote_literal(op->>'fill'), '') end,
            case when (op->>'not_null')::boolean then ' not null' else '' end);
        if op ? 'fill' then
            perform atoll.alter_table(l, coalesce('alter column %I set default ' || replace(op->>'default', '%', '%%'), 'alter column %I drop default'), col);
        end if;
    elsif had.op->>'do' = 'add' and not op ? 'generated' and not atoll.is_same_op(had.op, op) then
        perform atoll.note_overruled(l.name, of_item, had.stamp, had.op, at, op);
        perform atoll.convert_column(l, at, had.op, op);
        op := op || '{"contested": true}';
    end if;
    perform atoll.follow_op(l, at, op);
end $$;

-- A column becomes what a later change says that it is. What rows have in it is kept where it fits.
create or replace function atoll.convert_column(l atoll.local_table, at bigint, was jsonb, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    col constant text := op->>'column';
begin
    perform atoll.set_trait(l, at, op || '{"do": "default"}', 'drop default');
    perform atoll.set_trait(l, at, op || '{"do": "not_null"}', 'drop not null');
    perform atoll.set_trait(l, at, op || '{"do": "type"}', format('type %1$s%2$s using case when pg_input_is_valid(%3$I::text, %1$L) then %3$I::text else %4$L end::%1$s',
        op->>'type', coalesce(' collate ' || (op->>'collation'), ''), col, op->>'fill'));
    if (op->>'not_null')::boolean and op ? 'fill' then
        perform atoll.run_as_owner(l.relid, format('update %s set %I = %L where %2$I is null', l.name, col, op->>'fill'));
    end if;
    perform atoll.set_trait(l, at, op || '{"do": "default"}', coalesce('set default ' || (op->>'default'), 'drop default'));
    perform atoll.set_trait(l, at, op || '{"do": "not_null"}', case when (op->>'not_null')::boolean then 'set not null' else 'drop not null' end);
    perform atoll.forget_kept(l, col, op->>'fill');
end $$;

-- Rows that are not in the table have the new column's value too.
create or replace function atoll.forget_kept(l atoll.local_table, col text, fill text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if l.kind = 'merge' then
        execute format('update atoll_side.%I set atoll_kept = atoll_kept || jsonb_build_object(%L, %L::text) where atoll_kept is not null', l.side, col, fill);
    end if;
end $$;

create or replace function atoll.is_same_op(one jsonb, other jsonb) returns boolean
language sql immutable
return one - '{dropped,was,contested}'::text[] = other - '{dropped,was,contested}'::text[];

create or replace function atoll.type_step(col text, op jsonb) returns text
language sql immutable
return format('type %s%s using %I::text::%s', op->>'type', coalesce(' collate ' || (op->>'collation'), ''), col, op->>'type');

-- One trait of a column, unless a later change has said something about that trait.
create or replace function atoll.set_trait(l atoll.local_table, at bigint, op jsonb, step text) returns void
language plpgsql set search_path = pg_catalog as $$
#variable_conflict use_variable
begin
    if not exists (select from atoll.schema_item i where i.tbl = l.name and i.item = format('c:%s:%s', op->>'column', op->>'do') and i.stamp > at) then
        perform atoll.alter_table(l, 'alter column %I ' || replace(step, '%', '%%'), op->>'column');
    end if;
end $$;

create or replace function atoll.apply_trait(l atoll.local_table, at bigint, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    col  constant text := atoll.now_called(l.name, op->>'column');
    of_item constant text := format('c:%s:%s', col, op->>'do');
    whole atoll.schema_item;
begin
    select * into whole from atoll.schema_item i where i.tbl = l.name and i.item = 'c:' || col;
    if atoll.is_overruled(l.name, of_item, at, op) or whole.op->>'do' = 'add' and whole.stamp > at then
        return;
    elsif whole.op->>'do' = 'drop' then
        perform atoll.set_item(l.name, of_item, at, op);
        return;
    elsif not atoll.has_column(l.relid, col) then
        perform atoll.refuse('column-unknown', format('could not change column "%s" of %s: it is not known here', col, l.name), state => 'AT002');
    end if;
    op := op || jsonb_build_object('column', col);
    if op->>'do' = 'type' then   -- a default of the old type may not fit the new one
        if atoll.shape_now(l.relid)->'columns' @? '$.*' and exists (select from jsonb_each(atoll.shape_now(l.relid)->'columns') c where c.value->>'name' = col and c.value ? 'default')
           and not atoll.is_widening(op->>'was', op->>'type') then
            perform atoll.alter_table(l, 'alter column %I drop default', col);
        end if;
        perform atoll.set_trait(l, at, op, atoll.type_step(col, op));
    else
        perform atoll.set_trait(l, at, op, case op->>'do' when 'default' then coalesce('set default ' || (op->>'default'), 'drop default')
                                                        else case when (op->>'not_null')::boolean then 'set not null' else 'drop not null' end end);
    end if;
    perform atoll.follow_op(l, at, op);
end $$;

create or replace function atoll.apply_drop(l atoll.local_table, at bigint, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    col  constant text := atoll.now_called(l.name, op->>'column');
    had  atoll.schema_item;
begin
    select * into had from atoll.schema_item i where i.tbl = l.name and i.item = 'c:' || col;
    if had.op->>'do' in ('add', 'drop') and had.stamp > at then
        return;   -- added once more since
    end if;
    if atoll.has_column(l.relid, col) then
        perform atoll.alter_table(l, 'drop column %I cascade', col);
    end if;
    perform atoll.follow_op(l, greatest(at, had.stamp), op || jsonb_build_object('column', col));
end $$;

create or replace function atoll.apply_rename(l atoll.local_table, at bigint, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    was   constant text := op->>'column';
    goal  constant text := op->>'to';
    col   constant text := atoll.now_called(l.name, was);
    taken atoll.schema_item;
    had   atoll.schema_item;
begin
    select * into had from atoll.schema_item i where i.tbl = l.name and i.item = 'c:' || col;
    if atoll.is_overruled(l.name, 'c:' || was, at, op) or had.op->>'do' = 'came' and had.stamp > at then
        -- Its writer wrote by that name for a while.
        if not exists (select from atoll.schema_item i where i.tbl = l.name and i.item = 'c:' || goal) and not atoll.has_column(l.relid, goal) and col <> goal then
            perform atoll.set_item(l.name, 'c:' || goal, at, jsonb_build_object('do', 'rename', 'column', goal, 'to', col));
        end if;
        return;
    end if;
    select * into taken from atoll.schema_item i where i.tbl = l.name and i.item = 'c:' || goal;
    if col = goal then
        null;
    elsif had.op->>'do' = 'drop' then
        perform atoll.set_item(l.name, 'c:' || goal, greatest(at, had.stamp), jsonb_build_object('do', 'drop', 'column', goal));
    elsif not atoll.has_column(l.relid, col) then
        if not atoll.has_column(l.relid, goal) then
            perform atoll.refuse('column-unknown', format('could not rename column "%s" of %s: it is not known here', col, l.name), state => 'AT002');
        end if;
    elsif taken.stamp > at and (taken.op->>'do' = 'drop' or atoll.has_column(l.relid, goal)) then
        perform atoll.note_overruled(l.name, 'c:' || goal, at, op, taken.stamp, taken.op);
        perform atoll.alter_table(l, 'drop column %I cascade', col);
        perform atoll.follow_op(l, at, jsonb_build_object('do', 'drop', 'column', col));
    else
        if atoll.has_column(l.relid, goal) then
            perform atoll.note_overruled(l.name, 'c:' || goal, taken.stamp, taken.op, at, op);
            perform atoll.alter_table(l, 'drop column %I cascade', goal);
            perform atoll.follow_op(l, at, jsonb_build_object('do', 'drop', 'column', goal));
        end if;
        perform atoll.alter_table(l, 'rename column %I to %I', col, goal);
        perform atoll.follow_op(l, at, op || jsonb_build_object('column', col));
    end if;
    perform atoll.set_item(l.name, 'c:' || was, at, op);
end $$;

-- A constraint or an index, by its name.
create or replace function atoll.apply_named(l atoll.local_table, at bigint, op jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    is_constraint constant boolean := op->>'do' = 'constraint';
    of_item constant text := atoll.item_of(l.name, op);
    here text;
begin
    if atoll.is_overruled(l.name, of_item, at, op) then
        return;
    end if;
    here := atoll.shape_now(l.relid)->(case when is_constraint then 'constraints' else 'indexes' end)->>(op->>'name');
    if here is distinct from op->>'def' then
        if here is not null and is_constraint then
            perform atoll.alter_table(l, 'drop constraint %I cascade', op->>'name');
        elsif here is not null then
            perform atoll.run_as_owner(l.relid, format('drop index %s.%I', (select relnamespace::regnamespace from pg_class where oid = l.relid), op->>'name'));
        end if;
        if op->>'def' is not null and is_constraint then
            perform atoll.alter_table(l, 'add constraint %I ' || replace(op->>'def', '%', '%%'), op->>'name');
        elsif op->>'def' is not null then
            perform atoll.run_as_owner(l.relid, op->>'def');
        end if;
    end if;
    perform atoll.follow_op(l, at, op);
end $$;

-- The rules of a declaration under the present names of its columns.
create or replace function atoll.merge_now(of_table text, rules jsonb) returns jsonb
language sql stable set search_path = pg_catalog
return (select coalesce(jsonb_object_agg(n.name, n.value), '{}')
          from (select atoll.now_called(of_table, r.key) as name, r.value from jsonb_each(rules) r) n
         where not exists (select from atoll.schema_item i where i.tbl = of_table and i.item = 'c:' || n.name and i.op->>'do' = 'drop'));

-- A change as this node's table would have it: columns under their present names, without those that are gone, and
-- an insert with what it did not know of yet. A column that nothing is known of makes it wait.
create or replace function atoll.adapt(c atoll.change) returns atoll.change
language plpgsql stable set search_path = pg_catalog as $$
declare
    mine   text[];
    names  text[];
    places integer[];
    keys   integer;
begin
    if exists (select from atoll.schema_item i where i.tbl = c.tbl and i.op ? 'contested') then
        c := atoll.fitting(c);
    end if;
    select array_agg(k.name order by k.ordinal), count(*) filter (where k.is_key) into mine, keys from atoll.local_column k where k.tbl = c.tbl;
    if mine is null or c.op in ('M', 'D') or c.cols = mine
       or c.op = 'U' and c.cols <@ mine and not exists (select from atoll.schema_item i where i.tbl = c.tbl and i.op ? 'dropped') then
        return c;
    elsif c.op in ('S', 'X') then
        if not exists (select from atoll.schema_item i where i.tbl = c.tbl)
           and not exists (select from unnest((c.vals[keys + 1])::jsonb[]) s, jsonb_object_keys(s->'t') t where t <> all (mine)) then
            return c;
        elsif exists (select from unnest((c.vals[keys + 1])::jsonb[]) s where atoll.adapt_state(c.tbl, s) <> s) then
            select c.vals[:keys] || (array_agg(atoll.adapt_state(c.tbl, s) order by i))::text into c.vals
              from unnest((c.vals[keys + 1])::jsonb[]) with ordinality u (s, i);
        end if;
        return c;
    end if;
    select array_agg(coalesce(atoll.column_here(c.tbl, n, c.at), '') order by i) into names from unnest(c.cols) with ordinality u (n, i);
    if c.op = 'U' then
        if names <> c.cols then
            select array_agg(i order by i) into places from unnest(names) with ordinality u (n, i) where n <> '';
            c.prevs := (select array_agg(c.prevs[i - keys] order by i) from unnest(places) i where i > keys and c.prevs is not null);
            select array_agg(names[i] order by i), array_agg(c.vals[i] order by i) into c.cols, c.vals from unnest(places) i;
        end if;
        return c;
    end if;
    select array_agg(coalesce(c.vals[array_position(names, k.name)], array_fill(k.fill, array[c.n])::text) order by k.ordinal)
      into c.vals from atoll.local_column k where k.tbl = c.tbl;
    c.cols := mine;
    return c;
end $$;

-- Values for a column that has another type by now, because two nodes had added one of that name: those that do not
-- fit are the new column's default. The node that wrote them comes to the same when it hears of it.
create or replace function atoll.fitting(c atoll.change) returns atoll.change
language plpgsql stable set search_path = pg_catalog as $$
declare
    k record;
begin
    for k in select l.name, l.fill, i.op->>'type' as type from atoll.local_column l join atoll.schema_item i on i.tbl = l.tbl and i.item = 'c:' || l.name
              where l.tbl = c.tbl and i.op ? 'contested' loop
        if c.op in ('S', 'X') then
            c.vals := c.vals[:cardinality(c.vals) - 1] || (
                select array_agg(case when s->'v' ? k.name and not pg_input_is_valid(s->'v'->>k.name, k.type) then jsonb_set(s, array['v', k.name], coalesce(to_jsonb(k.fill), 'null')) else s end order by i)::text
                  from unnest((c.vals[cardinality(c.vals)])::jsonb[]) with ordinality u (s, i));
        elsif k.name = any (c.cols) then
            c.vals[array_position(c.cols, k.name)] := (
                select array_agg(case when v is null or pg_input_is_valid(v, k.type) then v else k.fill end order by i)::text
                  from unnest((c.vals[array_position(c.cols, k.name)])::text[]) with ordinality u (v, i));
        end if;
    end loop;
    return c;
end $$;

-- What a column of a change is called here; null if it is gone.
create or replace function atoll.column_here(of_table text, col text, at bigint) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    here constant text := case when exists (select from atoll.local_column k where k.tbl = of_table and k.name = col) then col
                               else atoll.now_called(of_table, col) end;
    i    atoll.schema_item;
begin
    select * into i from atoll.schema_item k where k.tbl = of_table and k.item = 'c:' || here;
    if exists (select from atoll.local_column k where k.tbl = of_table and k.name = here) then
        return case when at > coalesce((i.op->>'dropped')::bigint, 0) then here end;
    elsif i.op->>'do' = 'drop' then
        return null;
    end if;
    perform atoll.refuse('column-unknown', format('could not merge a change of %s: column "%s" is not known here', of_table, col), state => 'AT002');
end $$;

create or replace function atoll.adapt_state(of_table text, state jsonb) returns jsonb
language sql stable set search_path = pg_catalog as $$
    with said as (
        select t.key as was, t.value, atoll.column_here(of_table, t.key, t.value::bigint) as here from jsonb_each_text(state->'t') t
    ), missing as (
        select k.name, k.fill from atoll.local_column k where k.tbl = of_table and k.is_added and state ? 'b' and not exists (select from said where here = k.name)
    )
    select state || jsonb_build_object(
        't', (select coalesce(jsonb_object_agg(here, value::bigint), '{}') from said where here is not null)
             || (select coalesce(jsonb_object_agg(name, state->'b'), '{}') from missing),
        'v', (select coalesce(jsonb_object_agg(here, state->'v'->was), '{}') from said where here is not null and state->'v' ? was)
             || (select coalesce(jsonb_object_agg(name, fill), '{}') from missing),
        'x', (select coalesce(jsonb_object_agg(here, state->'x'->was), '{}') from said where here is not null and state->'x' ? was))
$$;
