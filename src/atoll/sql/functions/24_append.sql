-- Append tables hold facts: rows are inserted and never changed, so they need no sidecar and no stamps. Two
-- nodes that state different facts under one key end with the one whose text sorts last; the other is listed.

create or replace function atoll.append_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_insert}}() returns trigger
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    atoll_now bigint := atoll.now();
begin
    if current_setting('atoll.quiet', true) = 'on' then
        return null;
    end if;
    insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, 1, array[{{col_names}}], array[{{r_literals}}]{{scope_r}}
      from new_rows r where not exists (select from new_rows offset 1);
    if not found then
        insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals{{and_scope}})
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, count(*), array[{{col_names}}], array[{{agg_literals}}]{{scope_r}}
          from (select r.*, {{chunk}} as atoll_chunk from new_rows r) r
         group by atoll_chunk{{by_scope}};
    end if;
    {{send_away}}
    return null;
end $body$;

create or replace function {{fn_guard}}() returns trigger
language plpgsql security definer set search_path = pg_catalog as $body$
begin
    if tg_op = 'TRUNCATE' or current_setting('atoll.quiet', true) is distinct from 'on' then
        perform atoll.refuse('append-only', format('cannot %s rows of append table %s', lower(tg_op), {{name}}),
            'Facts are stated once and stay.', 'Share the table with kind merge if its rows change.', 'AT003');
    end if;
    return null;
end $body$;

create or replace function {{fn_merge}}(c atoll.change) returns boolean
language plpgsql set search_path = pg_catalog as $body$
#variable_conflict use_column
declare
    done bigint := -1;
begin
    if c.op = 'I' and c.cols = array[{{col_names}}] then
        if c.n = 1 then
            insert into {{table}} ({{cols}}) overriding system value select {{u_values}} from {{arrived_rows_one}};
        else
            insert into {{table}} ({{cols}}) overriding system value select {{u_values}} from {{arrived_rows}} {{in_order}};
        end if;
        get diagnostics done = row_count;
    end if;
    if done <> c.n then
        raise sqlstate 'AT0FF';
    end if;
    return true;
end $body$;

create or replace function {{fn_merge_slowly}}(c atoll.change) returns boolean
language plpgsql {{output}} set timezone = 'UTC' as $body$
#variable_conflict use_column
declare
    n   {{table}};
    t   {{table}};
    was text := coalesce(current_setting('atoll.quiet', true), '');
begin
    if c.op <> 'I' or c.cols <> array[{{col_names}}] then
        perform atoll.refuse('column-unknown', format('could not merge a change of %s: its columns differ from those here', c.tbl), state => 'AT002');
    end if;
    perform set_config('atoll.quiet', 'on', true);
    for {{n_fields}} in select {{u_values}} from {{arrived_rows}} {{in_order}}
    loop
        select m.* into t from {{table}} m where {{m_is_n}} for update;
        if not found then
            insert into {{table}} ({{cols}}) overriding system value values ({{n_cols}});
        elsif row({{n_cols}})::text collate "C" > row({{t_cols}})::text collate "C" then
            perform atoll.note({{name}}, {{key_of_n}}, null, 'fact', null, {{row_of_t}}, c.at, null, c.at, 'another fact was stated under the same key');
            delete from {{table}} m where {{m_is_n}};
            insert into {{table}} ({{cols}}) overriding system value values ({{n_cols}});
        elsif row({{n_cols}})::text <> row({{t_cols}})::text then
            perform atoll.note({{name}}, {{key_of_n}}, null, 'fact', null, {{row_of_n}}, c.at, null, c.at, 'another fact was stated under the same key');
        end if;
    end loop;
    perform set_config('atoll.quiet', was, true);
    return true;
end $body$;

$template$ $sql$;

create or replace function atoll.install_append(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    vars jsonb := atoll.variables(of_table) || atoll.arrived(of_table, false)
               || jsonb_build_object('arrived_rows_one', atoll.arrived(of_table, true)->>'arrived_rows');
begin
    execute atoll.render(atoll.append_seed_template(), vars);
    execute atoll.render(atoll.append_template(), vars || jsonb_build_object(
        'n_fields', atoll.list(of_table, 'all', 'n.{c}'),
        'fn_guard', atoll.generated((select side from atoll.local_table where name = of_table), 'guard')));
end $$;
