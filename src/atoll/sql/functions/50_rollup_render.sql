-- What is generated for a rollup: the trigger that notes what a statement changed, the function that folds such notes into
-- the rollup's parts, the one that counts a stretch of the table anew, and the views.
--
-- At every snapshot the parts of this node and the notes together are what the rows of the table come to, because a note is
-- written in the transaction of its statement. So a statement that reads rows and takes notes away, under one snapshot,
-- cannot count a row twice or miss one, whoever else writes. Notes are only ever inserted by writers: they wait for nobody.
--
-- Sums and histograms add and subtract. Where a row was taken out, its group's least and greatest values and its distinct
-- values are read from the table again: by whoever asks, until the group is folded.

-- Per measure: counts c, sum s of finite values, their exceptions a, u and d, least l, greatest h; histogram q, hashes k.
create or replace function atoll.rollup_variables(r atoll.local_rollup) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    d     constant jsonb := r.definition;
    at    constant text := quote_ident(d->'at'->>'name');
    is_tz constant boolean := d->'at'->>'type' = 'timestamp with time zone';
    part  text;
    vars  jsonb;
    m     record;
    pick  text[] := '{}';  agg text[] := '{}';  state text[] := '{}';  sketch text[] := '{}';  joins jsonb := '[]';
    shown text[] := '{}';
    stays boolean := true;    -- what is taken out can be subtracted
begin
    for m in select i, x->>'name' as name, x->>'type' as type, x->>'class' as class, x->'what' as what,
                    x->'what' ?| array['avg', 'sum'] as sums, x->'what' ? 'min' as least, x->'what' ? 'max' as greatest, x->'what' ? 'distinct' as distinct_values,
                    exists (select from jsonb_array_elements_text(x->'what') w where w ~ '^p[0-9]') as quantiles
               from jsonb_array_elements(d->'measures') with ordinality e (x, i) order by i
    loop
        pick := pick || format('r.%I as m%s', m.name, m.i);
        agg := agg || format('sum(r.sign) filter (where r.m%1$s is not null) as c%1$s', m.i);
        state := state || format('''c%1$s'', nullif(g.c%1$s, 0)', m.i);
        joins := joins || atoll.joined_part('state', 'c' || m.i, 'nullif(sum((x.state->%L)::bigint), 0)');
        if m.sums and m.class = 'whole' then
            agg := agg || format('sum(r.sign * r.m%1$s::numeric) as s%1$s', m.i);
            state := state || format('''s%1$s'', g.s%1$s', m.i);
        elsif m.sums then
            agg := agg || format('sum(r.sign * %1$s) filter (where r.m%2$s not in (''NaN'', ''Infinity'', ''-Infinity'')) as s%2$s, sum(r.sign) filter (where r.m%2$s = ''NaN'') as a%2$s, '
                                 'sum(r.sign) filter (where r.m%2$s = ''Infinity'') as u%2$s, sum(r.sign) filter (where r.m%2$s = ''-Infinity'') as d%2$s',
                                 case m.class when 'float' then format('r.m%s::float8::text::numeric', m.i) else 'r.m' || m.i end, m.i);
            state := state || format('''s%1$s'', g.s%1$s, ''a%1$s'', nullif(g.a%1$s, 0), ''u%1$s'', nullif(g.u%1$s, 0), ''d%1$s'', nullif(g.d%1$s, 0)', m.i);
            joins := joins || (select jsonb_agg(atoll.joined_part('state', k || m.i, 'nullif(sum((x.state->%L)::bigint), 0)')) from unnest('{a,u,d}'::text[]) k);
        end if;
        if m.sums then
            joins := joins || atoll.joined_part('state', 's' || m.i, 'sum((x.state->%L)::numeric)');
        end if;
        if m.least then
            agg := agg || format('min(r.m%1$s) filter (where r.sign > 0) as l%1$s', m.i);
            state := state || format('''l%1$s'', g.l%1$s', m.i);
            joins := joins || atoll.joined_part('state', 'l' || m.i, 'min((x.state->>%L)::' || m.type || ')');
        end if;
        if m.greatest then
            agg := agg || format('max(r.m%1$s) filter (where r.sign > 0) as h%1$s', m.i);
            state := state || format('''h%1$s'', g.h%1$s', m.i);
            joins := joins || atoll.joined_part('state', 'h' || m.i, 'max((x.state->>%L)::' || m.type || ')');
        end if;
        if m.quantiles then
            agg := agg || format('array_agg(atoll.sketch_code(r.m%1$s::float8)) filter (where r.m%1$s is not null) as q%1$s, array_agg(r.sign) filter (where r.m%1$s is not null) as z%1$s', m.i);
            sketch := sketch || format('''q%1$s'', atoll.tally(g.q%1$s, g.z%1$s)', m.i);
            joins := joins || atoll.joined_part('sketch', 'q' || m.i, 'atoll.add_tallies(array_agg(x.sketch->%1$L) filter (where x.sketch ? %1$L))');
        end if;
        if m.distinct_values then
            agg := agg || format('array_agg(atoll.value_hash(%s)) filter (where r.sign > 0 and r.m%s is not null) as k%2$s', atoll.plain_text('r.m' || m.i, m.type), m.i);
            sketch := sketch || format('''k%1$s'', atoll.least_hashes(g.k%1$s)', m.i);
            joins := joins || atoll.joined_part('sketch', 'k' || m.i, 'atoll.join_hashes(array_agg(x.sketch->%1$L) filter (where x.sketch ? %1$L))');
        end if;
        shown := shown || array(select format('%s as %I', atoll.shown_measure(w, m.i::integer, m.type, m.class), atoll.measure_column(m.name, w)) from jsonb_array_elements_text(m.what) with ordinality e (w, k) order by k);
        stays := stays and not (m.least or m.greatest or m.distinct_values);
    end loop;
    vars := jsonb_build_object(
        'name', quote_literal(r.name), 'version', r.declared, 'table', d->>'table', 'at', at,
        'view', r.name, 'node_view', atoll.by_node(r.name), 'pending', atoll.generated(r.side, 'pending'), 'source', atoll.generated(r.side, 'source'),
        'fn_note', atoll.generated(r.side, 'note'), 'fn_fold', atoll.generated(r.side, 'fold'), 'fn_refresh', atoll.generated(r.side, 'refresh'), 'fn_stretch', atoll.generated(r.side, 'stretch'),
        'raw_columns', array_to_string(array['r.' || at || ' as at'] || array(select format('%s as b%s', atoll.plain_value(format('r.%I', x->>'name'), x->>'type'), i) from jsonb_array_elements(d->'by') with ordinality e (x, i) order by i) || pick, ', '),
        'when', case when is_tz then 'r.at' else '(r.at::timestamp at time zone ''UTC'')' end,
        'group_columns', coalesce((select string_agg(', r.b' || i, '' order by i) from generate_series(1, jsonb_array_length(d->'by')) i), ''),
        'group_values', coalesce((select string_agg('g.b' || i, ', ' order by i) from generate_series(1, jsonb_array_length(d->'by')) i), ''),
        'aggregates', coalesce((select string_agg(', ' || a, '' order by i) from unnest(agg) with ordinality u (a, i)), ''),
        'state', atoll.json_object_of(state), 'sketch', atoll.json_object_of(sketch),
        'join_state', atoll.json_object_of(array(select format('%L, %s', j->>'name', j->>'value') from jsonb_array_elements(joins) j where j->>'of' = 'state')),
        'join_sketch', atoll.json_object_of(array(select format('%L, %s', j->>'name', j->>'value') from jsonb_array_elements(joins) j where j->>'of' = 'sketch')),
        'join_columns', coalesce((select string_agg(format(', %s as %s', j->>'value', j->>'name'), '') from jsonb_array_elements(joins) j), ''),
        'taint', case when stays then 'false' else 'bool_or(r.sign < 0)' end,
        'bucket_shown', case when is_tz then 'z.bucket' else '(z.bucket at time zone ''UTC'')' end,
        'by_shown', coalesce((select string_agg(format('%s as %I, ', atoll.shown_group(i - 1, x->>'type'), x->>'name'), '' order by i) from jsonb_array_elements(d->'by') with ordinality e (x, i)), ''),
        'measures_shown', coalesce((select string_agg(', ' || s, '' order by i) from unnest(shown) with ordinality u (s, i)), ''),
        'settings', 'set search_path = pg_catalog' || case when d->'measures' @> '[{"class": "float"}]' then ' set extra_float_digits = 1' else '' end
                    || case when d->'measures' @> '[{"type": "interval"}]' then ' set intervalstyle = ''postgres''' else '' end,
        'scope', format('atoll.part_scope(%L, %L)', d->>'table', d->>'scope'), 'stays', stays);
    vars := vars || jsonb_build_object('bucket', atoll.bucket_of(d, vars->>'when'), 'low_bucket', atoll.bucket_of(d, 'low'), 'high_bucket', atoll.bucket_of(d, 'high'),
        'bucket_end', atoll.bucket_end(d, 't.bucket'), 'high_end', atoll.bucket_end(d, 'high'));
    -- In the column's own terms, so that an index on it serves.
    vars := vars || jsonb_build_object('in_bucket', case when is_tz then format('r.at >= t.bucket and r.at < %s', vars->>'bucket_end')
                                                         else format('r.at >= (t.bucket at time zone ''UTC'') and r.at < (%s at time zone ''UTC'')', vars->>'bucket_end') end,
                                       'before_high', case when is_tz then 'r.at < high' else 'r.at < (high at time zone ''UTC'')' end,
        'in_range', case when is_tz then 'r.at >= low and r.at < high' else 'r.at >= (low at time zone ''UTC'') and r.at < (high at time zone ''UTC'')' end);
    foreach part in array '{new,old,table,range,again}'::text[] loop
        vars := vars || jsonb_build_object('fresh_' || part, atoll.render(atoll.rollup_fresh_template(), vars || jsonb_build_object('rows', atoll.render(case part
            when 'new' then 'select 1 as sign, {{raw_columns}} from new_rows r'
            when 'old' then 'select -1 as sign, {{raw_columns}} from old_rows r'
            when 'table' then 'select -1 as sign, {{raw_columns}} from only @table@ r'
            when 'range' then 'select 1 as sign, r.* from {{source}} r where {{in_range}}'
            else 'select 1 as sign, r.* from (select distinct bucket from tainted) t, lateral (select r.* from {{source}} r where {{in_bucket}} offset 0) r' end, vars))));
    end loop;
    return vars || jsonb_build_object('fresh_update', atoll.render(atoll.rollup_fresh_template(), vars || jsonb_build_object('rows', atoll.render(
        $t$select 1 as sign, n.* from (select {{raw_columns}} from new_rows r except all select {{raw_columns}} from old_rows r) n
           union all select -1, o.* from (select {{raw_columns}} from old_rows r except all select {{raw_columns}} from new_rows r) o$t$, vars))));
end $$;

-- The bucket of a moment, and where one ends. Fixed buckets are counted from midnight in UTC, days and longer ones in their zone.
create or replace function atoll.bucket_of(d jsonb, moment text) returns text
language sql immutable
return case when d->>'unit' is null then format('date_bin(%L::interval, %s, ''2000-01-01 00:00:00+00''::timestamptz)', d->>'bucket', moment)
            else format('date_trunc(%L, %s, %L)', d->>'unit', moment, d->>'zone') end;

create or replace function atoll.bucket_end(d jsonb, start text) returns text
language sql immutable
return case when d->>'unit' is null then format('(%s + %L::interval)', start, d->>'bucket')
            else format('(((%s at time zone %L) + %L::interval) at time zone %2$L)', start, d->>'zone', d->>'bucket') end;

-- Values that are equal look the same, whatever the session's settings.
create or replace function atoll.plain_value(value text, type text) returns text
language sql immutable
return case when type = 'numeric' then format('trim_scale(%s)', value) when type in ('real', 'double precision') then format('(%s + 0)', value)
            when type = 'timestamp with time zone' then format('(%s at time zone ''UTC'')', value) else value end;

create or replace function atoll.plain_text(value text, type text) returns text
language sql immutable
return case when type ~ '^(date|time)' then format('(to_jsonb(%s) #>> ''{}'')', atoll.plain_value(value, type)) else atoll.plain_value(value, type) || '::text' end;

create or replace function atoll.shown_group(place bigint, type text) returns text
language sql immutable
return case when type = 'timestamp with time zone' then format('((z.groups->>%s)::timestamp at time zone ''UTC'')', place) else format('(z.groups->>%s)::%s', place, type) end;

create or replace function atoll.joined_part(of_what text, name text, value text) returns jsonb
language sql immutable
return jsonb_build_object('of', of_what, 'name', name, 'value', format(value, name));

-- A function takes a hundred arguments.
create or replace function atoll.json_object_of(pairs text[]) returns text
language sql immutable
return case when cardinality(pairs) = 0 then '''{}''::jsonb' else
    (select 'jsonb_strip_nulls(' || string_agg(format('jsonb_build_object(%s)', line), ' || ' order by line_no) || ')'
       from (select (i - 1) / 8 as line_no, string_agg(p, ', ' order by i) as line from unnest(pairs) with ordinality u (p, i) group by 1) l) end;

create or replace function atoll.by_node(view text) returns text
language sql immutable
return (select format('%I.%I', n[1], n[2] || '_by_node') from parse_ident(view) n);

create or replace function atoll.measure_column(measure text, what text) returns text
language sql immutable
return measure || '_' || replace(what, '.', '_');

-- What a measure's column shows of what is kept.
create or replace function atoll.shown_measure(what text, i integer, type text, class text) returns text
language plpgsql immutable set search_path = pg_catalog as $$
declare
    total  constant text := case when class = 'whole' then 'z.s%1$s'
        else 'case when z.a%1$s is not null or z.u%1$s is not null and z.d%1$s is not null then ''NaN'' when z.u%1$s is not null then ''Infinity'' when z.d%1$s is not null then ''-Infinity'' else z.s%1$s end' end;
    number constant text := case class when 'float' then 'float8' else 'numeric' end;
begin
    return format(case what
        when 'count' then 'coalesce(z.c%1$s, 0)::bigint'
        when 'sum' then '(case when z.c%1$s is not null then ' || total || ' end)::' || number
        when 'avg' then '((' || total || ') / z.c%1$s)::' || number
        when 'min' then 'z.l%1$s'
        when 'max' then 'z.h%1$s'
        when 'distinct' then 'atoll.count_hashes(z.k%1$s)'
        else 'atoll.tally_quantile(z.q%1$s, %2$s)' end, i, case when what ~ '^p[0-9]' then substr(what, 2)::numeric / 100 end);
end $$;

create or replace function atoll.rollup_fresh_template() returns text
language sql immutable as $sql$ select $template$
        select g.bucket, jsonb_build_array({{group_values}}) as groups, g.n, {{state}} as state, {{sketch}} as sketch, g.taint
          from (select {{bucket}} as bucket{{group_columns}}, sum(r.sign) as n, {{taint}} as taint{{aggregates}}
                  from ({{rows}}) r where isfinite(r.at) group by 1{{group_columns}}) g
$template$ $sql$;

create or replace function atoll.rollup_note_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{fn_note}}() returns trigger
language plpgsql security definer {{settings}} as $body$
begin
    case tg_op
    when 'INSERT' then
        insert into {{pending}} (bucket, groups, n, state, sketch, taint) {{fresh_new}};
    when 'UPDATE' then
        insert into {{pending}} (bucket, groups, n, state, sketch, taint) {{fresh_update}};
    when 'DELETE' then
        insert into {{pending}} (bucket, groups, n, state, sketch, taint) {{fresh_old}};
    else
        execute replace($note$insert into {{pending}} (bucket, groups, n, state, sketch, taint) {{fresh_table}}$note$, '@table@', atoll.qualified(tg_relid));
    end case;
    return null;
end $body$;
$template$ $sql$;

-- Both end the same: `result` replaces the parts that were picked.
create or replace function atoll.rollup_write_template() returns text
language sql immutable as $sql$ select $template$
    , result as materialized (select s.*, md5(s.groups::text)::uuid as key from joined s where s.n > 0
    ), changed as (
        update atoll.rollup_part p set n = s.n, state = s.state, sketch = s.sketch, version = {{version}}, scope = {{scope}}
          from result s where p.rollup = {{name}} and p.node = atoll.me() and p.bucket = s.bucket and p.key = s.key
           and (p.n, p.state, p.sketch, p.version, p.scope) is distinct from (s.n, s.state, s.sketch, {{version}}, {{scope}})
    ), gone as (
        delete from atoll.rollup_part p using picked k
         where p.rollup = {{name}} and p.node = atoll.me() and p.bucket = k.bucket and p.key = k.key
           and not exists (select from result s where s.bucket = k.bucket and s.key = k.key)
    ), added as (
        insert into atoll.rollup_part (rollup, bucket, node, key, groups, n, state, sketch, version, scope)
        select {{name}}, s.bucket, atoll.me(), s.key, s.groups, s.n, s.state, s.sketch, {{version}}, {{scope}} from result s
         where not exists (select from atoll.rollup_part p where p.rollup = {{name}} and p.node = atoll.me() and p.bucket = s.bucket and p.key = s.key)
    )
$template$ $sql$;

create or replace function atoll.rollup_fold_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{fn_fold}}(most integer) returns bigint
language plpgsql {{settings}} as $body$
declare
    done bigint;
begin
    with picked as materialized (
        select distinct l.bucket, l.groups, md5(l.groups::text)::uuid as key from (select q.bucket, q.groups from {{pending}} q limit most) l
    ), taken as materialized (
        delete from {{pending}} q using picked k where q.bucket = k.bucket and q.groups = k.groups returning q.*
    ), tainted as materialized (
        select distinct t.bucket, t.groups from taken t where t.taint
    ), sources as (
        select t.bucket, t.groups, t.n, t.state, t.sketch from taken t where (t.bucket, t.groups) not in (select bucket, groups from tainted)
        union all
        select p.bucket, p.groups, p.n, p.state, p.sketch from picked k join atoll.rollup_part p on p.rollup = {{name}} and p.node = atoll.me() and p.bucket = k.bucket and p.key = k.key
         where p.version = {{version}} and (p.bucket, p.groups) not in (select bucket, groups from tainted)
        union all
        select f.bucket, f.groups, f.n, f.state, f.sketch from ({{fresh_again}}) f where (f.bucket, f.groups) in (select bucket, groups from tainted)
    ), joined as (
        select x.bucket, x.groups, sum(x.n)::bigint as n, {{join_state}} as state, {{join_sketch}} as sketch from sources x group by x.bucket, x.groups
    )
    {{write}}
    select count(*) into done from taken;
    return done;
end $body$;

create or replace function {{fn_refresh}}(low timestamptz, high timestamptz) returns bigint
language plpgsql {{settings}} as $body$
declare
    done bigint;
begin
    if isfinite(low) then
        low := {{low_bucket}};
    end if;
    if isfinite(high) and {{high_bucket}} < high then
        high := {{high_bucket}};
        high := {{high_end}};
    end if;
    with picked as materialized (
        select p.bucket, p.key from atoll.rollup_part p where p.rollup = {{name}} and p.node = atoll.me() and p.bucket >= low and p.bucket < high
    ), taken as (
        delete from {{pending}} q where q.bucket >= low and q.bucket < high
    ), joined as (
        {{fresh_range}}
    )
    {{write}}
    select coalesce(sum(s.n), 0) into done from result s;
    return done;
end $body$;

-- Where a stretch of about so many rows before `high` begins.
create or replace function {{fn_stretch}}(high timestamptz, most integer) returns timestamptz
language sql stable set search_path = pg_catalog as $body$
    select coalesce((select {{bucket}} from {{source}} r where {{before_high}} and isfinite(r.at) order by r.at desc offset most limit 1), '-infinity')
$body$;
$template$ $sql$;

create or replace function atoll.rollup_view_template() returns text
language sql immutable as $sql$ select $template$
create or replace view {{this_view}} as
with tainted as materialized (
    select distinct q.bucket, q.groups from {{pending}} q where q.taint
)
select {{bucket_shown}} as bucket, {{node_shown}}{{by_shown}}z.n{{measures_shown}}
  from (select x.bucket, {{node_group}}x.groups, sum(x.n)::bigint as n{{join_columns}}
          from (select p.bucket, p.node, p.groups, p.n, p.state, p.sketch from atoll.rollup_part p
                 where p.rollup = {{name}} and p.version = {{version}}
                   and ((select atoll.counted_nodes({{table_name}})) is null or p.node = any ((select atoll.counted_nodes({{table_name}}))::integer[]))
                   {{part_is_sound}}
                union all
                select q.bucket, atoll.me(), q.groups, q.n, q.state, q.sketch from {{pending}} q {{note_is_sound}}
                {{looked_at_again}}) x
         group by x.bucket, {{node_group}}x.groups) z
 where z.n > 0;
$template$ $sql$;

create or replace function atoll.render_rollup(r atoll.local_rollup) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    vars constant jsonb := atoll.rollup_variables(r);
    is_here constant boolean := r.relid is not null;
    mends constant boolean := is_here and not (vars->>'stays')::boolean;
    node_view boolean;
begin
    execute atoll.render('create table if not exists {{pending}} (bucket timestamptz not null, groups jsonb not null, n bigint not null, state jsonb not null, sketch jsonb not null, taint boolean not null)', vars);
    if is_here then
        execute atoll.render('create or replace view {{source}} as select {{raw_columns}} from {{table}} r', vars);
        execute atoll.render(atoll.rollup_note_template(), vars);
        execute atoll.render(atoll.rollup_fold_template(), vars || jsonb_build_object('write', atoll.render(atoll.rollup_write_template(), vars)));
    end if;
    foreach node_view in array array[false, true] loop
        execute atoll.render(atoll.rollup_view_template(), vars || jsonb_build_object(
            'this_view', vars->>case when node_view then 'node_view' else 'view' end, 'table_name', quote_literal(vars->>'table'),
            'node_shown', case when node_view then 'z.node, ' else '' end, 'node_group', case when node_view then 'x.node, ' else '' end,
            'part_is_sound', case when mends then 'and not (p.node = atoll.me() and (p.bucket, p.groups) in (select bucket, groups from tainted))' else '' end,
            'note_is_sound', case when mends then 'where (q.bucket, q.groups) not in (select bucket, groups from tainted)' else '' end,
            'looked_at_again', case when mends then format('union all select f.bucket, atoll.me(), f.groups, f.n, f.state, f.sketch from (%s) f where (f.bucket, f.groups) in (select bucket, groups from tainted)', vars->>'fresh_again') else '' end));
    end loop;
end $$;
