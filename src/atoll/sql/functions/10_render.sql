-- Each shared table gets functions of its own, so that statements are planned once and name real columns.
-- They are rendered from templates: {{word}} is a variable, and a template's variables are made from the
-- table's columns by atoll.list, where in an item {c} is the quoted name, {l} the name as a literal, {t} the
-- type, {w} the element type on the wire, {=} the key's equality operator.

-- Replaces each variable once, from left to right: what is put in may itself look like a variable.
create or replace function atoll.fill(template text, vars jsonb, opens text, closes text) returns text
language plpgsql immutable set search_path = pg_catalog as $$
declare
    pieces constant text[] := string_to_array(template, opens);
    done   text := pieces[1];
    word   text;
begin
    for i in 2 .. cardinality(pieces) loop
        word := split_part(pieces[i], closes, 1);
        if not vars ? word then
            raise exception 'template leaves % open', opens || word || closes;
        end if;
        done := done || coalesce(vars->>word, '') || substr(pieces[i], length(word) + length(closes) + 1);
    end loop;
    return done;
end $$;

create or replace function atoll.render(template text, vars jsonb) returns text
language sql immutable
return atoll.fill(template, vars, '{{', '}}');

create or replace function atoll.list(of_table text, which text, item text, separator text default ', ')
returns text
language sql stable
return (
    select string_agg(
               atoll.fill(item, jsonb_build_object('c', quote_ident(name), 'l', quote_literal(name), 't', type, 'w', wire, '=', equals), '{', '}'),
               separator order by ordinal)
      from atoll.local_column
     where tbl = of_table
       and case which
               when 'key' then is_key
               when 'value' then not is_key
               when 'lww' then policy = 'lww'
               when 'policy' then policy not in ('key', 'lww')
               when 'scope' then policy = 'scope'
               when 'plain' then policy in ('lww', 'scope', 'max', 'min', 'function')
               when 'kept' then policy in ('counter', 'first', 'set', 'document')
               when 'unique' then in_unique and not is_key
               else true
           end);

-- Columns whose values have a canonical form; {f} in an item is the function that makes it.
create or replace function atoll.canonical(of_table text, item text, separator text) returns text
language sql stable
return (select string_agg(atoll.fill(item, jsonb_build_object('c', quote_ident(name), 'f', case policy when 'set' then 'atoll.as_set' else 'atoll.as_document' end), '{', '}'),
                          separator order by ordinal)
          from atoll.local_column where tbl = of_table and policy in ('set', 'document'));

create or replace function atoll.policies(of_table text) returns jsonb
language sql stable
return (select coalesce(jsonb_object_agg(name, jsonb_strip_nulls(
                   jsonb_build_object('p', policy, 'type', type, 'f', fold))), '{}')
          from atoll.local_column where tbl = of_table and policy not in ('key', 'lww', 'scope'));

-- The name of one of a table's generated functions, with the schema, quoted.
create or replace function atoll.generated(side text, part text) returns text
language sql immutable
return format('atoll_side.%I', left(side, 63 - 2 - length(part)) || '__' || part);

-- What the templates may name. Row aliases in them: n new, o old, s sidecar, t the table's row, k the key's row,
-- q another row with the same unique key, r a source row, m the row of the statement's own target.
create or replace function atoll.variables(of_table text) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    t       atoll.local_table;
    uniq    text := atoll.unique_match(of_table);
    vars    jsonb;
begin
    select * into strict t from atoll.local_table where name = of_table;
    vars := jsonb_build_object(
        'name', quote_literal(t.name),
        'table', t.name,
        'side', format('atoll_side.%I', t.side),
        'policies', quote_literal(atoll.policies(t.name)) || '::jsonb',
        'first_key', (select quote_ident(name) from atoll.local_column where tbl = t.name and is_key order by ordinal limit 1),
        'keys', atoll.list(t.name, 'key', '{c}'),
        'cols', atoll.list(t.name, 'all', '{c}'),
        'col_names', atoll.list(t.name, 'all', '{l}'),
        'key_names', atoll.list(t.name, 'key', '{l}'),
        'value_names', atoll.list(t.name, 'value', '{l}'),
        'has_values', (exists (select from atoll.local_column c where c.tbl = t.name and not c.is_key))::text,
        'has_unique', (uniq is not null)::text,
        'unique_match', coalesce(uniq, 'false'),
        'output', atoll.output_settings(t.relid),
        'plan_for_one', 'set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan',
        'plan_for_many', 'perform set_config(setting, ''on'', true) from unnest(array[''enable_seqscan'', ''enable_hashjoin'', ''enable_mergejoin'']) setting;'
                         ' perform set_config(''plan_cache_mode'', ''force_custom_plan'', true);');
    select vars || jsonb_object_agg('fn_' || part, atoll.generated(t.side, part)) into vars
      from unnest(array['read', 'write', 'revive', 'join', 'absorb', 'insert', 'update', 'delete', 'truncate',
                        'merge', 'merge_slowly', 'guard', 'seed', 'tell', 'settle']) part;
    -- Only what a template names: each of these is a list over the columns, and a table has its functions rendered often.
    select vars || jsonb_object_agg(p.a || '_is_' || p.b, atoll.list(t.name, 'key', format('%s.{c} operator({=}) %s.{c}', p.a, p.b), ' and ')) into vars
      from (values ('m', 'k'), ('m', 'n'), ('m', 'q'), ('m', 'r'), ('m', 's'), ('m', 't'), ('n', 'm'), ('n', 'o'), ('o', 'n'), ('o', 'r'),
                   ('t', 'o'), ('t', 'r'), ('t', 's')) p (a, b);
    select vars || jsonb_object_agg(a || '_keys', atoll.list(t.name, 'key', a || '.{c}')) into vars from unnest(array['k', 'm', 'n', 'q', 'r']) a;
    select vars || jsonb_object_agg(a || '_cols', atoll.list(t.name, 'all', a || '.{c}')) into vars from unnest(array['m', 'n', 'r', 't']) a;
    select vars || jsonb_object_agg(a || '_texts', coalesce('array[' || atoll.list(t.name, 'value', a || '.{c}::text') || ']', '''{}''::text[]')) into vars
      from unnest(array['n', 'o', 'r', 't']) a;
    select vars || jsonb_object_agg(a || '_stamps', coalesce(', ' || atoll.list(t.name, 'value', a || '.{c}'), '')) into vars from unnest(array['m', 's']) a;
    select vars || jsonb_object_agg(a || '_values_row', 'row(' || coalesce(atoll.list(t.name, 'value', a || '.{c}'), '') || ')') into vars
      from unnest(array['n', 't']) a;
    select vars || jsonb_object_agg('key_of_' || a, atoll.jsonb_of(t.name, 'key', a)) into vars from unnest(array['n', 'q', 's']) a;
    select vars || jsonb_object_agg('row_of_' || a, atoll.jsonb_of(t.name, 'value', a)) into vars from unnest(array['n', 'q', 't']) a;
    vars := vars || jsonb_build_object(
        'r_literals', atoll.list(t.name, 'all', 'array[r.{c}::{w}]::text'),
        'r_key_literals', atoll.list(t.name, 'key', 'array[r.{c}::{w}]::text'),
        'k_key_texts', 'array[' || atoll.list(t.name, 'key', 'k.{c}::text') || ']');
    vars := vars || jsonb_build_object(
        'again', quote_literal('atoll.again_' || t.relid),
        'cast_row', atoll.row_fields(t.relid, 'r'),
        'cast_row_o', atoll.row_fields(t.relid, 'o'),
        'stamp_names', coalesce('array[' || atoll.list(t.name, 'value', '{l}') || ']', '''{}''::text[]'),
        'stamps', coalesce('array[' || atoll.list(t.name, 'value', 'greatest(s.{c}, s.atoll_birth)::text') || ']', '''{}''::text[]'),
        'texts', vars->>'t_texts',
        'key_name_array', 'array[' || atoll.list(t.name, 'key', '{l}') || ']',
        'assign_n', atoll.list(t.name, 'key', 'n.{c} := s.{c};', E'\n        ') || E'\n        '
                 || coalesce((select string_agg(format('n.%I := %s::%s;', c.name, case when c.fill is null then format('(atoll_vals->>%L)', c.name)
                                                          else format('(case when atoll_vals ? %1$L then atoll_vals->>%1$L else %2$L end)', c.name, c.fill) end, c.type), E'\n        ' order by c.ordinal)
                               from atoll.local_column c where c.tbl = t.name and not c.is_key), ''),
        'state_rank', 'greatest((atoll_row->>''b'')::bigint' || coalesce(', ' || atoll.list(t.name, 'unique', '(atoll_row->''t''->>{l})::bigint'), '') || ')',
        'side_rank', 'greatest(qs.atoll_birth' || coalesce(', ' || atoll.list(t.name, 'unique', 'qs.{c}'), '') || ')',
        'side_rank_m', 'greatest(m.atoll_birth' || coalesce(', ' || atoll.list(t.name, 'unique', 'm.{c}'), '') || ')',
        'kept_of_q', vars->>'row_of_q',
        'make_canonical', coalesce(atoll.canonical(t.name, 'n.{c} := {f}(n.{c});', E'\n    '), ''),
        'canonical_r', coalesce(atoll.canonical(t.name, 'r.{c} is not distinct from {f}(r.{c})', ' and '), 'true'),
        'revive_any', case when uniq is not null then format('if exists (select from atoll_side.%I where atoll_aside) then perform %s(); end if;',
                                                             t.side, vars->>'fn_revive') else '' end,
        'set_n', coalesce(atoll.list(t.name, 'value', '{c} = n.{c}'), format('%1$s = n.%1$s', vars->>'first_key')),
        'set_stamps', coalesce(atoll.list(t.name, 'value', '{c} = nullif((atoll_row->''t''->>{l})::bigint, (atoll_row->>''b'')::bigint)') || ',', ''),
        'm_is_key', atoll.list(t.name, 'key', 'm.{c} operator({=}) (atoll_key->>{l})::{t}', ' and '),
        'key_values', atoll.list(t.name, 'key', '(atoll_key->>{l})::{t}'),
        'sort_by_key', atoll.list(t.name, 'key', '(row_key->>{l})::{t}'),
        'side_stamps', coalesce(', ' || atoll.list(t.name, 'value', 's.{c}'), ''),
        'both_plain', coalesce(atoll.list(t.name, 'policy', 'record_image_eq(row(o.{c}), row(r.{c}))', ' and '), 'true'),
        'untouched', 'r.' || (vars->>'first_key') || ' is not null and m.atoll_birth is not null and m.atoll_death is null and m.atoll_epoch is null '
                     'and m.atoll_state is null and m.atoll_aside is null' || coalesce(' and ' || atoll.list(t.name, 'value', 'm.{c} is null', ' and '), ''),
        'chunk', atoll.chunk());
    return vars || jsonb_build_object(
        'agg_literals', atoll.list(t.name, 'all', 'array_agg(r.{c}::{w})::text'),
        'agg_key_literals', atoll.list(t.name, 'key', 'array_agg(r.{c}::{w})::text'),
        'u_values', atoll.list(t.name, 'all', 'r.{c}::{t}'),
        'u_keys', atoll.list(t.name, 'key', 'r.{c}::{t}'))
        || atoll.change_variables(t.name) || atoll.merge_variables(t.name) || atoll.scope_variables(t);
end $$;

create or replace function atoll.jsonb_of(of_table text, which text, alias text) returns text
language sql stable
return coalesce(format('jsonb_object(array[%s], array[%s])', atoll.list(of_table, which, '{l}'),
                       atoll.list(of_table, which, alias || '.{c}::text')), '''{}''::jsonb');

-- What a generated function sets, so that values become the same text whatever the session has set. Setting costs
-- at each call, so it is only done for types whose output depends on it, and for all that are not known here.
create or replace function atoll.output_settings(of_relation oid) returns text
language sql stable
return (
    with used as (
        select coalesce(nullif(y.typbasetype, 0), y.oid)::regtype::text as type
          from pg_attribute a join pg_type y on y.oid = a.atttypid
         where a.attrelid = of_relation and a.attnum > 0 and not a.attisdropped
    ), known as (
        select * from (values ('datestyle', '''ISO, YMD''', array['date', 'timestamp without time zone', 'timestamp with time zone']),
                              ('intervalstyle', '''postgres''', array['interval']), ('bytea_output', '''hex''', array['bytea']),
                              ('extra_float_digits', '1', array['real', 'double precision']), ('lc_monetary', '''C''', array['money']),
                              ('xmlbinary', '''base64''', array['xml'])) k (name, value, types)
    ), plain as (
        select array['boolean', 'smallint', 'integer', 'bigint', 'numeric', 'text', 'character varying', 'character', 'uuid', 'json', 'jsonb'] as types
    )
    select 'set search_path = pg_catalog' || coalesce(string_agg(format(' set %s = %s', k.name, k.value), '' order by k.name), '')
      from known k
     where exists (select from used u where u.type = any (k.types))
        or exists (select from used u, plain p where u.type <> all (p.types) and not exists (select from known o where u.type = any (o.types))));

create or replace function atoll.row_fields(of_relation oid, alias text) returns text
language sql stable
return (select string_agg(case when attgenerated <> '' then 'null::' || format_type(atttypid, -1) else alias || '.' || quote_ident(attname) end, ', ' order by attnum) from pg_attribute
         where attrelid = of_relation and attnum > 0 and not attisdropped);

-- Rows per chunk, bounded by number and by size.
create or replace function atoll.chunk() returns text
language sql stable
return format('(count(*) over (rows unbounded preceding) - 1) / %s + sum(pg_column_size(r.*)) over (rows unbounded preceding) / %s',
              atoll.setting('chunk_rows'), atoll.setting('chunk_bytes'));

-- An array of those items that are not null.
create or replace function atoll.some(items text[]) returns text
language sql immutable
return format('array_remove(array[%s]::text[], null)', array_to_string(items, ', '));

-- Whether an UPDATE changed a column. Plain equality where equal values have the same bytes; elsewhere the bytes.
create or replace function atoll.differs(c atoll.local_column) returns text
language sql stable
return (
    select string_agg(case when y.attname is not null then format('o.%1$I is distinct from r.%1$I', g.name)
                           else format('record_image_ne(row(o.%1$I), row(r.%1$I))', g.name) end, ' or ' order by g.ordinal)
      from atoll.local_column g
      join atoll.local_table t on t.name = g.tbl
      left join (select a.attrelid, a.attname
                   from pg_attribute a left join pg_collation l on l.oid = a.attcollation
                  where coalesce(l.collisdeterministic, true)
                    and a.atttypid in (select p.t::regtype from unnest(array['boolean', 'smallint', 'integer', 'bigint', 'text', 'character varying',
                                                  'uuid', 'bytea', 'date', 'timestamp', 'timestamptz']) p (t))) y
             on y.attrelid = t.relid and y.attname = g.name
     where g.tbl = c.tbl and (g.name = c.name or g.together = c.together));

-- An UPDATE, row by row: atoll_dN says whether the N-th value column changed, atoll_pN is the stamp that it had.
create or replace function atoll.change_variables(of_table text) returns jsonb
language sql stable
return (
    with v as (
        select c as col, c.name, c.wire, c.policy, row_number() over (order by ordinal) as i
          from atoll.local_column c where c.tbl = of_table and not c.is_key
    ), part as (
        select coalesce(string_agg(format('(%s) as atoll_d%s, greatest(m.%I, m.atoll_birth) as atoll_p%s,', atoll.differs(col), i, name, i), ' ' order by i), '') as changes,
               coalesce(string_agg(format('r.atoll_d%s', i), ' or ' order by i), 'false') as any_change,
               coalesce(string_agg(format('r.atoll_d%s, ', i), '' order by i), '') as change_flags,
               coalesce(string_agg(format('not r.atoll_d%s', i), ' and ' order by i) filter (where policy <> 'lww'), 'true') as change_is_plain,
               coalesce(string_agg(format(', %1$I = case when r.atoll_d%2$s then moved.at else m.%1$I end', name, i), '' order by i), '') as set_moved_stamps,
               coalesce(string_agg(format(', %1$I = case when r.atoll_d%2$s then r.atoll_at else m.%1$I end', name, i), '' order by i), '') as set_own_stamps,
               atoll.some(array_agg(format('case when r.atoll_d%s then %L end', i, name) order by i)) as changed_names,
               atoll.some(array_agg(format('case when r.atoll_d%s then array[r.%I::%s]::text end', i, name, wire) order by i)) as changed_literals,
               atoll.some(array_agg(format('case when r.atoll_d%s then array[r.atoll_p%s]::text end', i, i) order by i)) as changed_prevs,
               coalesce('least(' || string_agg(format('case when r.atoll_d%s then r.atoll_p%s end', i, i), ', ' order by i) || ')', '0') as lowest_prev,
               coalesce('greatest(' || string_agg(format('case when r.atoll_d%s then r.atoll_p%s end', i, i), ', ' order by i) || ')', '0') as highest_prev,
               coalesce(string_agg(format('(array_agg(r.%I::%s) filter (where r.atoll_d%s))::text as atoll_v%s, '
                                          'array_agg(r.atoll_p%s) filter (where r.atoll_d%s) as atoll_p%s, ', name, wire, i, i, i, i, i), '' order by i), '') as gathered_columns,
               atoll.some(array_agg(format('r.atoll_v%s', i) order by i)) as gathered_literals,
               atoll.some(array_agg(format('r.atoll_p%s::text', i) order by i)) as gathered_prevs,
               coalesce(bool_or(policy <> 'lww'), false)::text as any_policy
          from v
    )
    select to_jsonb(part) from part);

-- A merged change names some of the columns: atoll_i[N] is the place of the N-th one in it, or null.
create or replace function atoll.merge_variables(of_table text) returns jsonb
language sql stable
return (
    with v as (
        select c.*, ordinal as i, not is_key as is_value from atoll.local_column c where c.tbl = of_table
    )
    select jsonb_build_object(
        'positions', string_agg(format('array_position(c.cols, %L)', name), ', ' order by i),
        'needs_care', coalesce('c.cols operator(pg_catalog.&&) array[' || string_agg(quote_literal(name), ', ' order by i)
                          filter (where policy not in ('key', 'lww') or in_unique and is_value) || ']', 'false'),
        'set_changed', coalesce(string_agg(format('%2$I = case when atoll_i[%1$s] is not null then r.%2$I::%3$s else m.%2$I end', i, name, type), ', ' order by i) filter (where is_value),
                                min(format('%1$I = m.%1$I', name)) filter (where i = 1)),
        'set_changed_stamps', coalesce(', ' || string_agg(format('%2$I = case when atoll_i[%1$s] is not null then c.at else m.%2$I end', i, name), ', ' order by i) filter (where is_value), ''),
        'prev_agrees', coalesce(string_agg(format('and (atoll_i[%1$s] is null or greatest(m.%2$I, m.atoll_birth) = coalesce(c.prev, r.atoll_p%1$s))', i, name), E'\n                       ' order by i) filter (where is_value), ''))
      from v);

create or replace function atoll.source(arrays text[], names text, is_single boolean) returns text
language sql immutable
return case when is_single then (select format('(values (%s)) r (%s)', string_agg(format('(%s)[1]', a), ', ' order by i), names)
                                   from unnest(arrays) with ordinality u (a, i))
            else format('unnest(%s) r (%s)', array_to_string(arrays, ', '), names) end;

-- What arrived, as a source of rows r: unnested, or by plain values where there is a single one.
create or replace function atoll.arrived(of_table text, is_single boolean) returns jsonb
language sql stable
return (
    with v as (
        select c.*, ordinal as i, count(*) filter (where is_key) over () as nk from atoll.local_column c where c.tbl = of_table
    ), part as (
        select string_agg(quote_ident(name), ', ' order by i) as cols,
               string_agg(quote_ident(name), ', ' order by i) filter (where is_key) as keys,
               array_agg(format('c.vals[%s]::%s[]', i, wire) order by i) as rows,
               array_agg(format('c.vals[%s]::%s[]', i, wire) order by i) filter (where is_key) as key_rows,
               array_agg(format('c.vals[atoll_i[%s]]::%s[]', i, wire) order by i) as values,
               coalesce(array_agg(format('c.prevs[atoll_i[%s] - %s]::bigint[]', i, nk) order by i) filter (where not is_key), '{}') as prevs,
               coalesce(string_agg(format(', atoll_p%s', i), '' order by i) filter (where not is_key), '') as prev_names
          from v
    )
    select jsonb_build_object(
        'in_order', case when not is_single then 'order by ' || keys else '' end,
        'arrived_rows', atoll.source(rows, cols, is_single),
        'arrived_births', atoll.source(key_rows || 'c.ats::bigint[]'::text, keys || ', atoll_at', is_single),
        'arrived_values', atoll.source(values, cols, is_single),
        'arrived_prevs', atoll.source(key_rows || prevs, keys || prev_names, is_single),
        'arrived_deaths', atoll.source(key_rows || 'c.prevs[1]::bigint[]'::text, keys || ', atoll_prev', is_single))
      from part);

-- The scope of a table's rows that do not say one, as an expression.
create or replace function atoll.usual_scope(t atoll.local_table) returns text
language sql immutable
return case t.scope when 'region' then 'atoll.here()' when 'node' then 'atoll.here_only()' else quote_literal(t.scope) end;

-- The scope of the row with this alias.
create or replace function atoll.row_scope(t atoll.local_table, alias text) returns text
language sql stable
return case when t.scope_column is null then atoll.usual_scope(t) else format('atoll.scope_of(%s.%I::text, %s)', alias, t.scope_column, atoll.usual_scope(t)) end;

-- Where rows may go. A table that is global throughout pays nothing for it: its variables are empty.
create or replace function atoll.scope_variables(t atoll.local_table) returns jsonb
language sql stable
return (
    with part as (
        select atoll.usual_scope(t) as usual
    ), expr as (
        select alias, atoll.row_scope(t, alias) as scope from unnest(array['r', 'n', 'o']) alias
    ), one as (
        select t.scope <> 'global' or t.scope_column is not null as is_scoped, t.scope_column is not null as is_by_row,
               (select scope from expr where alias = 'r') as r, usual from part
    )
    select jsonb_build_object(
        'and_scope', case when is_scoped then ', scope' else '' end,
        'and_atoll_scope', case when is_scoped then ', atoll_scope' else '' end,
        'scope_r', case when is_scoped then ', ' || r else '' end,
        'as_scope', case when is_scoped then r || ' as atoll_scope, ' else '' end,
        'and_scope_r', case when is_scoped then ', r.atoll_scope' else '' end,
        'by_scope', case when is_by_row then ', ' || r else '' end,
        'plain_r', (case when is_by_row then format('atoll.admits(%s)', r) else 'true' end)
                   || coalesce(' and ' || atoll.canonical(t.name, 'r.{c} is not distinct from {f}(r.{c})', ' and '), ''),
        'is_by_row', is_by_row::text,
        'and_moved_before', case when is_by_row then format(' and coalesce(m.%I, 0) < c.at', t.scope_column) else '' end,
        'send_away', case when is_by_row then format('if exists (select from new_rows r where not atoll.admits(%1$s)) then perform atoll.check_scope(%1$s) from new_rows r; perform set_config(''atoll.quiet'', ''on'', true); delete from %2$s m using new_rows r where %3$s and not atoll.admits(%1$s); perform set_config(''atoll.quiet'', '''', true); end if;',
                r, t.name, atoll.list(t.name, 'key', 'm.{c} operator({=}) r.{c}', ' and ')) else '' end,
        'scope_name', coalesce(quote_literal(t.scope_column), 'null'),
        'scope_of_vals', case when is_by_row then format('atoll.scope_of(atoll_vals->>%L, %s)', t.scope_column, usual) else usual end,
        'scope_of_news', case when is_by_row then format('atoll.scope_of(news->>%L, %s)', t.scope_column, usual) else usual end,
        'scope_of_olds', case when is_by_row then format('atoll.scope_of(olds->>%L, %s)', t.scope_column, usual) else usual end,
        'usual_scope', usual,
        'scope_of_it', case when not is_scoped then '' when is_by_row then format(', atoll.scope_of(atoll_state->''v''->>%L, %s) as atoll_scope', t.scope_column, usual) else format(', %s as atoll_scope', usual) end,
        'by_state_scope', case when is_scoped then ', r.atoll_scope' else '' end,
        'may_have_r', case when is_scoped then format('%s = any (atoll_scopes)', r) else 'true' end,
        'may_have_state', case when not is_scoped then 'true'
                               when is_by_row then format('atoll.scope_of(atoll_state->''v''->>%L, %s) = any (atoll_scopes)', t.scope_column, usual)
                               else format('%s = any (atoll_scopes)', usual) end,
        'settle_join', case when is_by_row then format('perform %s(atoll_key, state, delta, atoll_joined);', atoll.generated(t.side, 'settle')) else '' end)
      from one);
