-- Capture: what a local statement did becomes changes, in AFTER STATEMENT triggers.
--
-- One row takes the shortest way: no join, no plan that depends on how many rows a statement has. Many rows are
-- one statement of SQL, planned anew each time. Rows whose sidecar entry is not simply there (or not simply
-- missing, for an INSERT) and columns with a policy go row by row through absorb.

create or replace function atoll.capture_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_insert}}() returns trigger
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    atoll_now bigint := atoll.now();
    n     {{table}};
    many  boolean;
begin
    if current_setting('atoll.quiet', true) = 'on' then
        return null;
    end if;
    if current_setting({{again}}, true) = 'on' then
        {{insert_again}}
        return null;
    elsif pg_trigger_depth() > 1 then
        perform set_config({{again}}, 'on', true);
    end if;
    select count(*) > 1 into many from (select from new_rows limit 2) two;
    if many then
        perform set_config('plan_cache_mode', 'force_custom_plan', true);
        {{insert_rows}}
        return null;
    end if;
    select {{cast_row}} into n from new_rows r;
    if not found then
        return null;
    end if;
    {{if_uncanonical_absorb}}
    insert into {{side}} ({{keys}}, atoll_birth) values ({{n_keys}}, atoll_now) on conflict do nothing;
    if not found then
        perform {{fn_absorb}}(null::{{table}}, n);
        return null;
    end if;
    insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals)
    values (atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, 1, array[{{col_names}}], array[{{n_literals}}]);
    return null;
end $body$;

create or replace function {{fn_update}}() returns trigger
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    atoll_now   bigint;
    o       {{table}};
    n       {{table}};
    s       {{side}};
    many    boolean;
    careful boolean := false;
    plain   boolean;
    twice   boolean;
    pair    record;
    changed text[] := '{}';
    vals    text[] := '{}';
    prevs   text[] := '{}';
begin
    if current_setting('atoll.quiet', true) = 'on' then
        return null;
    end if;
    if current_setting({{again}}, true) = 'on' then
        {{update_again}}
        {{revive_any}}
        return null;
    elsif pg_trigger_depth() > 1 then
        perform set_config({{again}}, 'on', true);
    end if;
    select count(*) > 1 into many from (select from new_rows limit 2) two;
    if many then
        perform set_config('plan_cache_mode', 'force_custom_plan', true);
        {{update_rows}}
        {{revive_any}}
        return null;
    end if;
    select {{cast_row}} into o from old_rows r;
    if not found then
        return null;
    end if;
    select {{cast_row}} into n from new_rows r;
    if not ({{o_is_n}}) then
        perform {{fn_absorb}}(o, null::{{table}});
        perform {{fn_absorb}}(null::{{table}}, n);
        {{revive_any}}
        return null;
    end if;
    select m.* into s from {{side}} m where {{m_is_n}};
    if s.atoll_birth is null then
        perform {{fn_absorb}}(null::{{table}}, n);
        return null;
    end if;
    atoll_now := atoll.stamp_after(greatest(s.atoll_birth, s.atoll_death{{side_stamps}}));
    {{compare_columns}}
    if careful then
        perform {{fn_absorb}}(o, n);
        return null;
    end if;
    if changed = '{}' then
        return null;
    end if;
    update {{side}} m set atoll_birth = m.atoll_birth{{keep_stamps}} where {{m_is_n}};
    insert into atoll.change (origin, seq, tbl, op, at, prevs, n, cols, vals)
    values (atoll.me(), nextval('atoll.change_seq'), {{name}}, 'U', atoll_now, prevs, 1,
            array[{{key_names}}] || changed, array[{{n_key_literals}}] || vals);
    {{revive_any}}
    return null;
end $body$;

create or replace function {{fn_delete}}() returns trigger
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    atoll_now bigint;
    o     {{table}};
    s     {{side}};
    many  boolean;
    pair  record;
begin
    if current_setting('atoll.quiet', true) = 'on' then
        return null;
    end if;
    if current_setting({{again}}, true) = 'on' then
        {{delete_again}}
        {{revive_any}}
        return null;
    elsif pg_trigger_depth() > 1 then
        perform set_config({{again}}, 'on', true);
    end if;
    select count(*) > 1 into many from (select from old_rows limit 2) two;
    if many then
        perform set_config('plan_cache_mode', 'force_custom_plan', true);
        {{delete_rows}}
        {{revive_any}}
        return null;
    end if;
    select {{cast_row}} into o from old_rows r;
    if not found then
        return null;
    end if;
    select m.* into s from {{side}} m where {{m_is_o}};
    if not found then
        perform {{fn_absorb}}(o, null::{{table}});
        return null;
    end if;
    atoll_now := atoll.stamp_after(greatest(s.atoll_birth, s.atoll_death{{side_stamps}}));
    update {{side}} m set atoll_death = atoll_now, atoll_kept = jsonb_object({{stamp_names}}, {{o_texts}}) where {{m_is_o}};
    insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals)
    values (atoll.me(), nextval('atoll.change_seq'), {{name}}, 'D', atoll_now,
            greatest(s.atoll_birth{{side_stamps}}), 1, array[{{key_names}}], array[{{o_key_literals}}]);
    {{revive_any}}
    return null;
end $body$;

create or replace function {{fn_truncate}}() returns trigger
language plpgsql security definer {{output}} as $body$
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
    perform set_config('plan_cache_mode', 'force_custom_plan', true);
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
language sql stable
return jsonb_build_object(
    'insert_again', atoll.render($template$for n in select t.* from new_rows r join {{table}} t on {{t_is_r}} loop
            perform {{fn_absorb}}(null::{{table}}, n);
        end loop;$template$, vars),
    'delete_again', atoll.render($template$for pair in select row({{cast_row_o}})::{{table}} as o, t as n from old_rows o left join {{table}} t on {{t_is_o}} loop
            perform {{fn_absorb}}(pair.o, pair.n);
        end loop;$template$, vars),
    'update_again', atoll.render($template$for pair in select row({{cast_row_o}})::{{table}} as o, t as n from old_rows o left join {{table}} t on {{t_is_o}} loop
            perform {{fn_absorb}}(pair.o, pair.n);
        end loop;
        for n in select t.* from new_rows r join {{table}} t on {{t_is_r}} where not exists (select from old_rows o where {{o_is_r}}) loop
            perform {{fn_absorb}}(null::{{table}}, n);
        end loop;$template$, vars));

-- Many rows at a time. {{source}} is where the rows come from; a chunk ends at chunk_rows or chunk_bytes.

create or replace function atoll.insert_rows_template() returns text
language sql immutable as $sql$ select $template$
        insert into {{side}} ({{keys}}, atoll_birth) select {{r_keys}}, atoll_now from {{source}} r where {{canonical_r}} on conflict do nothing;
        insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals)
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, count(*), array[{{col_names}}], array[{{agg_literals}}]
          from (select r.*, {{chunk}} as atoll_chunk
                  from {{source}} r join {{side}} m on {{m_is_r}}
                 where m.atoll_birth = atoll_now and m.atoll_death is null) r
         group by atoll_chunk;
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
        insert into atoll.change (origin, seq, tbl, op, at, prev, prevs, n, cols, vals)
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'D', (select at from dead),
               case when min(atoll_prev) = max(atoll_prev) then min(atoll_prev) end,
               case when min(atoll_prev) < max(atoll_prev) then array[array_agg(atoll_prev)::text] end,
               count(*), array[{{key_names}}], array[{{agg_key_literals}}]
          from (select r.*, {{chunk}} as atoll_chunk from gone r) r
         group by atoll_chunk;
$template$ $sql$;

create or replace function atoll.update_rows_template() returns text
language sql immutable as $sql$ select $template$
        with pair as materialized (
            select {{r_cols}}, {{mask}} as atoll_mask, {{prev_columns}}
                   greatest(m.atoll_birth, m.atoll_death{{m_stamps}}) as atoll_seen
              from new_rows r join old_rows o on {{o_is_r}} join {{side}} m on {{m_is_r}}
             where m.atoll_birth is not null
        ), moved as (
            select atoll.stamp_after(max(atoll_seen)) as at from pair where atoll_mask <> {{no_mask}}
        ), marked as (
            update {{side}} m set atoll_birth = m.atoll_birth{{set_masked_stamps}}
              from pair r, moved where {{m_is_r}} and r.atoll_mask <> {{no_mask}} and {{mask_is_plain}}
            returning 1
        ), chunked as (
            select r.*, {{chunk_by_mask}} as atoll_chunk from pair r where r.atoll_mask <> {{no_mask}} and {{mask_is_plain}}
        ), logged as (
        insert into atoll.change (origin, seq, tbl, op, at, prev, prevs, n, cols, vals)
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'U', (select at from moved),
               case when low = high then low end,
               case when low < high then atoll.masked(array[{{prev_literals}}]::text[], mask) end, rows,
               array[{{key_names}}] || atoll.masked(array[{{value_names}}]::text[], mask),
               keys || atoll.masked(vals, mask)
          from (select atoll_mask as mask, count(*) as rows, min({{masked_low}}) as low, max({{masked_high}}) as high,
                       {{agg_masked_prevs}} array[{{agg_key_literals}}] as keys, {{agg_masked_vals}} as vals
                  from chunked r group by atoll_mask, atoll_chunk) g
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

create or replace function atoll.masked(items text[], mask text) returns text[]
language sql immutable parallel safe
return (select coalesce(array_agg(item order by i), '{}') from unnest(items) with ordinality u(item, i) where substr(mask, i::int, 1) = '1');
