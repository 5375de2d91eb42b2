-- Append tables hold facts: rows are inserted and never changed, so they need no sidecar and no stamps. Two
-- nodes that state different facts under one key end with the one whose text sorts last; the other is listed.

create or replace function atoll.append_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_insert}}() returns trigger
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    atoll_now bigint := atoll.now();
    n     {{table}};
begin
    if current_setting('atoll.quiet', true) = 'on' then
        return null;
    end if;
    if (select count(*) > 1 from (select from new_rows limit 2) two) then
        insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals)
        select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, count(*), array[{{col_names}}], array[{{agg_literals}}]
          from (select r.*, {{chunk}} as atoll_chunk from new_rows r) r
         group by atoll_chunk;
        return null;
    end if;
    select {{cast_row}} into n from new_rows r;
    if found then
        insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals)
        values (atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll_now, 0, 1, array[{{col_names}}], array[{{n_literals}}]);
    end if;
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

create or replace function {{fn_merge}}(c atoll.change) returns void
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    done bigint;
begin
    if c.op <> 'I' or c.cols <> array[{{col_names}}] then
        raise sqlstate 'AT0FF';
    end if;
    insert into {{table}} ({{cols}}) overriding system value
    select {{u_values}} from unnest({{all_arrays}}) r ({{cols}}) order by {{r_keys}}
    on conflict do nothing;
    get diagnostics done = row_count;
    if done <> c.n then
        raise sqlstate 'AT0FF';
    end if;
end $body$;

create or replace function {{fn_merge_slowly}}(c atoll.change) returns void
language plpgsql security definer {{output}} set timezone = 'UTC' as $body$
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
    for {{n_fields}} in select {{u_values}} from unnest({{all_arrays}}) r ({{cols}}) order by {{r_keys}}
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
end $body$;

$template$ $sql$;

create or replace function atoll.install_append(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    vars jsonb := atoll.variables(of_table);
begin
    execute atoll.render(atoll.append_seed_template(), vars);
    execute atoll.render(atoll.append_template(), vars || jsonb_build_object(
        'n_fields', atoll.list(of_table, 'all', 'n.{c}'),
        'fn_guard', atoll.generated((select side from atoll.local_table where name = of_table), 'guard')));
end $$;
