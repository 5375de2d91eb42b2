-- Capture: what a local statement did becomes changes, in AFTER STATEMENT triggers.
--
-- One row takes the shortest way: one statement, whose plan is kept and looks the sidecar up by its key, because
-- the settings of the function leave no other plan. Many rows are one statement too, planned anew each time. Rows
-- whose sidecar entry is not simply there (or not simply missing, for an INSERT) and columns with a policy go row
-- by row through absorb.

create or replace function atoll.capture_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_insert}}() returns trigger
language plpgsql security definer {{output}} {{plan_for_one}} as $body$
#variable_conflict use_column
declare
    atoll_now bigint := atoll.now();
    n     {{table}};
begin
    {{enter_insert}}
    with placed as (
        insert into {{side}} ({{keys}}, atoll_birth)
        select {{r_keys}}, atoll_now from new_rows r where {{plain_r}} and not exists (select from new_rows offset 1)
        on conflict do nothing returning 1
    )
    insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, 1, array[{{col_names}}], array[{{r_literals}}]{{scope_r}}
      from new_rows r, placed;
    if found then
        return null;
    elsif exists (select from new_rows offset 1) then
        {{plan_for_many}}
        -- All keys are new, as a rule. Trying costs less than ON CONFLICT, which writes (and sends) each entry twice.
        begin
            if exists (select from new_rows r where not ({{plain_r}})) then
                raise sqlstate 'AT0FF';
            end if;
            insert into {{side}} ({{keys}}, atoll_birth) select {{r_keys}}, atoll_now from new_rows r;
            insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals{{and_scope}})
            select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, count(*), array[{{col_names}}], array[{{agg_literals}}]{{scope_r}}
              from (select r.*, {{chunk}} as atoll_chunk from new_rows r) r
             group by atoll_chunk{{by_scope}} order by atoll_chunk;
        exception when unique_violation or sqlstate 'AT0FF' then
            {{insert_rows}}
        end;
        return null;
    end if;
    select {{cast_row}} into n from new_rows r;
    if found then
        perform {{fn_absorb}}(null::{{table}}, n);
    end if;
    return null;
end $body$;

create or replace function {{fn_update}}() returns trigger
language plpgsql security definer {{output}} {{plan_for_one}} as $body$
#variable_conflict use_column
declare
    atoll_now bigint;
    o     {{table}};
    n     {{table}};
    plain boolean;
    twice boolean;
    pair  record;
begin
    {{enter_update}}
    with marked as (
        update {{side}} m set atoll_birth = m.atoll_birth{{set_own_stamps}}
          from (select {{r_cols}}, {{changes}} atoll.stamp_after(greatest(m.atoll_birth, m.atoll_death{{m_stamps}})) as atoll_at
                  from new_rows r, old_rows o, {{side}} m
                 where not exists (select from new_rows offset 1)
                   and {{o_is_r}} and {{m_is_r}} and m.atoll_birth is not null and {{both_plain}}) r
         where {{m_is_r}} and ({{any_change}})
        returning r.*
    )
    insert into atoll.change (origin, seq, tbl, op, at, prevs, n, cols, vals{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'U', r.atoll_at, {{changed_prevs}}, 1,
           array[{{key_names}}] || {{changed_names}}, array[{{r_key_literals}}] || {{changed_literals}}{{scope_r}}
      from marked r;
    if found then
        {{revive_any}}
        return null;
    elsif exists (select from new_rows offset 1) then
        {{plan_for_many}}
        {{update_rows}}
        {{revive_any}}
        return null;
    end if;
    select {{cast_row}} into o from old_rows r;
    select {{cast_row}} into n from new_rows r;
    if not found or record_image_eq(o, n) then
        return null;
    elsif not ({{o_is_n}}) then
        perform {{fn_absorb}}(o, null::{{table}});
        perform {{fn_absorb}}(null::{{table}}, n);
        {{revive_any}}
    elsif exists (select from {{side}} m where {{m_is_n}} and m.atoll_birth is not null) then
        perform {{fn_absorb}}(o, n);
    else
        perform {{fn_absorb}}(null::{{table}}, n);
    end if;
    return null;
end $body$;

create or replace function {{fn_delete}}() returns trigger
language plpgsql security definer {{output}} {{plan_for_one}} as $body$
#variable_conflict use_column
declare
    o     {{table}};
    pair  record;
begin
    {{enter_delete}}
    with gone as materialized (
        select r.*, greatest(m.atoll_birth{{m_stamps}}) as atoll_prev,
               atoll.stamp_after(greatest(m.atoll_birth, m.atoll_death{{m_stamps}})) as atoll_at
          from old_rows r, {{side}} m where {{m_is_r}} and not exists (select from old_rows offset 1)
    ), marked as (
        update {{side}} m set atoll_death = r.atoll_at, atoll_kept = jsonb_object({{stamp_names}}, {{r_texts}}) from gone r where {{m_is_r}}
    )
    insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'D', r.atoll_at, r.atoll_prev, 1, array[{{key_names}}], array[{{r_key_literals}}]{{scope_r}}
      from gone r;
    if found then
        {{revive_any}}
        return null;
    elsif exists (select from old_rows offset 1) then
        {{plan_for_many}}
        {{delete_rows}}
        {{revive_any}}
        return null;
    end if;
    select {{cast_row}} into o from old_rows r;
    if found then
        perform {{fn_absorb}}(o, null::{{table}});
    end if;
    return null;
end $body$;

create or replace function {{fn_truncate}}() returns trigger
language plpgsql security definer {{output}} {{plan_for_one}} as $body$
#variable_conflict use_column
declare
    atoll_now  bigint;
    atoll_vals jsonb;
    n     {{table}};
    s     {{side}};
begin
    if current_setting('atoll.quiet', true) = 'on' then
        return null;
    end if;
    {{plan_for_many}}
    -- Rows that were set aside in favour of rows that go now would otherwise come back into an emptied table.
    for s in select m.* from {{side}} m where {{has_unique}} and m.atoll_aside loop
        atoll_vals := s.atoll_kept;
        {{assign_n}}
        if exists (select from {{table}} m where ({{unique_match}}) and (m.tableoid = tg_relid or m.tableoid in (select relid from pg_partition_tree(tg_relid)))) then
            perform {{fn_absorb}}(n, null::{{table}});
        end if;
    end loop;
    {{truncate_rows}}
    return null;
end $body$;

$template$ $sql$;

-- A trigger of the application that writes the same table again is captured before the statement that fired it,
-- whose transition tables are out of date then. Such statements go row by row, by what the table holds now. The
-- setting {{again}} says so for the rest of the transaction: it is made when a trigger writes the table.

create or replace function atoll.again_variables(vars jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    part text;
begin
    vars := vars || jsonb_build_object(
        'insert_again', atoll.render($template$for n in select t.* from new_rows r join {{table}} t on {{t_is_r}} loop
            perform {{fn_absorb}}(null::{{table}}, n);
        end loop;$template$, vars),
        'delete_again', atoll.render($template$for pair in select row({{cast_row_o}})::{{table}} as o, t as n from old_rows o left join {{table}} t on {{t_is_o}} loop
            perform {{fn_absorb}}(pair.o, pair.n);
        end loop;
        {{revive_any}}$template$, vars),
        'update_again', atoll.render($template$for pair in select row({{cast_row_o}})::{{table}} as o, t as n from old_rows o left join {{table}} t on {{t_is_o}} loop
            perform {{fn_absorb}}(pair.o, pair.n);
        end loop;
        for n in select t.* from new_rows r join {{table}} t on {{t_is_r}} where not exists (select from old_rows o where {{o_is_r}}) loop
            perform {{fn_absorb}}(null::{{table}}, n);
        end loop;
        {{revive_any}}$template$, vars));
    foreach part in array array['insert', 'update', 'delete'] loop
        -- One test for the usual case; which of the three it is matters only then.
        vars := vars || jsonb_build_object('enter_' || part, atoll.render($template$if current_setting('atoll.quiet', true) = 'on' or current_setting({{again}}, true) = 'on' or pg_trigger_depth() > 1 then
        if current_setting('atoll.quiet', true) = 'on' then
            return null;
        elsif current_setting({{again}}, true) = 'on' then
            {{by_what_is_there}}
            return null;
        end if;
        perform set_config({{again}}, 'on', true);
    end if;$template$, vars || jsonb_build_object('by_what_is_there', vars->>(part || '_again'))));
    end loop;
    return vars;
end $$;

-- Many rows at a time. {{source}} is where the rows come from; a chunk ends at chunk_rows or chunk_bytes.

create or replace function atoll.insert_rows_template() returns text
language sql immutable as $sql$ select $template$
        insert into {{side}} ({{keys}}, atoll_birth) select {{r_keys}}, atoll_now from {{source}} r where {{plain_r}} on conflict do nothing;
        insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals{{and_scope}})
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, count(*), array[{{col_names}}], array[{{agg_literals}}]{{scope_r}}
          from (select r.*, {{chunk}} as atoll_chunk
                  from {{source}} r join {{side}} m on {{m_is_r}}
                 where m.atoll_birth = atoll_now and m.atoll_death is null) r
         group by atoll_chunk{{by_scope}};
        for n in select {{cast_row}} from {{source}} r left join {{side}} m on {{m_is_r}}
                  where m.atoll_birth is distinct from atoll_now or m.atoll_death is not null loop
            perform {{fn_absorb}}(null::{{table}}, n);
        end loop;
$template$ $sql$;

create or replace function atoll.delete_rows_template() returns text
language sql immutable as $sql$ select $template$
        with gone as materialized (
            select r.*, greatest(m.atoll_birth{{m_stamps}}) as atoll_prev, m.atoll_death as atoll_before
              from {{source}} r join {{side}} m on {{m_is_r}}
        ), dead as (
            select atoll.stamp_after(max(greatest(atoll_prev, atoll_before))) as at from gone
        ), marked as (
            update {{side}} m set atoll_death = dead.at, atoll_kept = jsonb_object({{stamp_names}}, {{r_texts}})
              from gone r, dead where {{m_is_r}}
        )
        insert into atoll.change (origin, seq, tbl, op, at, prev, prevs, n, cols, vals{{and_scope}})
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'D', (select at from dead),
               case when min(atoll_prev) = max(atoll_prev) then min(atoll_prev) end,
               case when min(atoll_prev) < max(atoll_prev) then array[array_agg(atoll_prev)::text] end,
               count(*), array[{{key_names}}], array[{{agg_key_literals}}]{{scope_r}}
          from (select r.*, {{chunk}} as atoll_chunk from gone r) r
         group by atoll_chunk{{by_scope}};
$template$ $sql$;

create or replace function atoll.update_rows_template() returns text
language sql immutable as $sql$ select $template$
        with pair as materialized (
            select {{r_cols}}, {{changes}} greatest(m.atoll_birth, m.atoll_death{{m_stamps}}) as atoll_seen
              from new_rows r join old_rows o on {{o_is_r}} join {{side}} m on {{m_is_r}}
             where m.atoll_birth is not null
        ), moved as (
            select atoll.stamp_after(max(atoll_seen)) as at from pair r where {{any_change}}
        ), marked as (
            update {{side}} m set atoll_birth = m.atoll_birth{{set_moved_stamps}}
              from pair r, moved where {{m_is_r}} and ({{any_change}}) and {{change_is_plain}}
            returning 1
        ), chunked as (
            select r.*, {{chunk}} as atoll_chunk from pair r where ({{any_change}}) and {{change_is_plain}}
        ), logged as (
        insert into atoll.change (origin, seq, tbl, op, at, prev, prevs, n, cols, vals{{and_scope}})
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'U', (select at from moved),
               case when low = high then low end, case when low < high then {{gathered_prevs}} end, rows,
               array[{{key_names}}] || {{changed_names}}, keys || {{gathered_literals}}{{and_scope_r}}
          from (select {{as_scope}}{{change_flags}} {{gathered_columns}} count(*) as rows, min({{lowest_prev}}) as low, max({{highest_prev}}) as high,
                       array[{{agg_key_literals}}] as keys
                  from chunked r group by {{change_flags}} atoll_chunk{{by_scope}}) r
        )
        select count(*) = (select count(*) from new_rows), (select count(*) from chunked) > (select count(*) from marked)
          into plain, twice from pair;
        if twice then   -- foreign keys that cascade may change a row twice in one statement
            {{update_again}}
            return null;
        end if;
        if {{any_policy}} then
            for pair in select row({{cast_row_o}})::{{table}} as o, row({{cast_row}})::{{table}} as n
                          from new_rows r join old_rows o on {{o_is_r}} where not ({{both_plain}}) loop
                perform {{fn_absorb}}(pair.o, pair.n);
            end loop;
        end if;
        -- Keys that this statement moved, and rows without a sidecar entry: gone here, new there.
        if not plain then
            {{moved_away}}
            atoll_now := atoll.now();
            {{moved_here}}
        end if;
$template$ $sql$;
