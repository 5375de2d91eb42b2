-- Searching a table: by words, by a vector, or by both.
--
-- Each way makes a list of its own, first by index and then, of the best, in detail; the two are fused by rank. All of it
-- runs with the caller's rights, so what the caller may not see is not found. Nothing is written.

-- A filter as a condition over row m: {"lang": "de", "shop": [1, 2], "price": {">=": 5, "<": 10}, "sold": null}.
create or replace function atoll.filter_of(t regclass, filter jsonb) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    c      record;
    type   text;
    made   text := '';
begin
    if jsonb_typeof(filter) <> 'object' or (select count(*) > 32 from jsonb_object_keys(filter)) then
        perform atoll.refuse('search-filter', 'a filter is an object with 32 columns at most', hint => 'For example: {"lang": "de", "price": {"<": 10}}');
    end if;
    for c in select f.key as name, coalesce(o.op, '=') as op, coalesce(o.value, f.value) as value
               from jsonb_each(filter) f left join lateral (select * from jsonb_each(case jsonb_typeof(f.value) when 'object' then f.value end)) o (op, value) on true
    loop
        select format_type(a.atttypid, -1) into type from pg_attribute a where a.attrelid = t and a.attname = c.name and a.attnum > 0 and not a.attisdropped;
        if type is null then
            perform atoll.refuse('search-filter', format('column "%s" of the filter does not exist in %s', c.name, t));
        elsif c.op not in ('=', '<>', '<', '<=', '>', '>=') or jsonb_typeof(c.value) = 'object' then
            perform atoll.refuse('search-filter', format('cannot filter column "%s" by %s', c.name, quote_literal(c.op)), hint => 'It is =, <>, <, <=, > or >=, with a value, a list of values or null.');
        elsif c.op not in ('=', '<>') and jsonb_typeof(c.value) in ('null', 'array') then
            perform atoll.refuse('search-filter', format('cannot compare column "%s" with a list or null by %s', c.name, c.op));
        elsif jsonb_typeof(c.value) = 'null' then
            made := made || format(' and m.%I is%s null', c.name, case c.op when '<>' then ' not' else '' end);
        elsif exists (select from jsonb_array_elements_text(case jsonb_typeof(c.value) when 'array' then c.value else jsonb_build_array(c.value) end) v
                       where v is null or not pg_input_is_valid(v, type)) then
            perform atoll.refuse('search-filter', format('cannot compare column "%s" with %s: its type is %s', c.name, left(c.value::text, 100), type));
        elsif jsonb_typeof(c.value) = 'array' then
            made := made || format(' and m.%I %s', c.name, case c.op when '=' then '= any' else '<> all' end)
                         || format('(array[%s]::%s[])', (select string_agg(quote_literal(v), ', ') from jsonb_array_elements_text(c.value) v), type);
        else
            made := made || format(' and m.%I %s %L::%s', c.name, c.op, c.value #>> '{}', type);
        end if;
    end loop;
    return made;
end $$;

-- How many rows a condition leaves, as far as the planner knows. (EXPLAIN may not be run by a function that is stable.)
create or replace function atoll.estimate(tbl text, filter text) returns float8
language plpgsql volatile set search_path = pg_catalog as $$
declare
    plan json;
begin
    execute format('explain (format json) select from %s m where true%s', tbl, filter) into plan;
    return (plan->0->'Plan'->>'Plan Rows')::float8;
end $$;

-- The nearest rows: keys, as texts, with their distance by full precision. Under a filter that leaves few rows the index
-- would be walked for long: looking at a row by the index takes some fifty times as long as by its table. Then, and where
-- the index has found too few, all rows that the filter leaves are compared.
drop function if exists atoll.find_near(record, text, double precision[], integer, integer);
create or replace function atoll.find_near(p record, filter text, of_version text, vector double precision[], wanted integer, depth integer) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    was   constant text[] := array[current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true)];
    query text;
    found jsonb := '[]';
begin
    query := format($f$
        select coalesce(jsonb_agg(jsonb_build_array(%1$s, m.atoll_away) order by m.atoll_away), '[]')
          from (select m.*, m.atoll_vector operator(%3$s.<=>) $1::%3$s.vector::%3$s.%4$I as atoll_away
                  from (select %9$s, %2$s as atoll_vector from %5$s where %2$s is not null%6$s
                         order by ((%7$s) operator(%3$s.<=>) %3$s.l2_normalize($1::%3$s.vector)::%3$s.halfvec(%8$s)){exactly} limit $2) m
                 order by atoll_away limit $2) m
         where m.atoll_away <> 'NaN'$f$,
        (select string_agg(format('m.%I::text', k), ', ') from unnest(p.keys) k), p.nearest, p.vectors, p.kind, p.near, filter || of_version, p.half, p.dims,
        (select string_agg(format('m.%I', k), ', ') from unnest(p.keys) k));
    if filter = '' or atoll.estimate(p.tbl, filter) > 50 * depth then
        perform set_config('hnsw.ef_search', least(1000, greatest(300, 2 * depth))::text, true), set_config('hnsw.iterative_scan', 'relaxed_order', true);
        execute replace(query, '{exactly}', '') into found using vector, depth;
        perform set_config('hnsw.ef_search', coalesce(was[1], '40'), true), set_config('hnsw.iterative_scan', coalesce(was[2], 'off'), true);
    end if;
    if jsonb_array_length(found) < wanted then
        execute replace(query, '{exactly}', ' + 0') into found using vector, depth;
    end if;
    return found;
end $$;

-- The rows with the most telling words: keys, as texts, with a score. Which rows have which words the index knows, as
-- far as `most` rows of each word; a word counts as much as it is rare. The best rows are then read and ranked in detail,
-- and those go that have much less of the query than another.
create or replace function atoll.find_words(p record, filter text, wished tsquery[], needed tsquery, depth integer) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    total constant float8 := (select greatest(c.reltuples, 1000) from pg_class c where c.oid = p.tbl::regclass);
    most  constant integer := least(5000, 60000 / cardinality(wished));
    found jsonb;
begin
    execute format($f$
        with word as materialized (select * from unnest($1) with ordinality u (atoll_q, atoll_i)),
        hit as materialized (
            select u.atoll_i, m.* from word u cross join lateral (select %1$s from %2$s m where %3$s @@ (u.atoll_q && $2)%4$s limit $3) m
        ), weight as materialized (
            select w.atoll_i, w.atoll_q as q, ln(1 + greatest($4, h.n) / h.n) as weight from (select atoll_i, count(*) as n from hit group by atoll_i) h join word w using (atoll_i)
        ), best as materialized (
            select %1$s, sum(w.weight) as atoll_weight from hit m join weight w using (atoll_i) group by %1$s order by atoll_weight desc, %1$s limit $5
        ), scored as (
            select %5$s as key, s.score, s.covered, max(s.covered) over () as covered_best
              from best b join %2$s m on %6$s
              cross join lateral (select %3$s as atoll_words offset 0) x
              cross join lateral (select sum(w.weight * ts_rank(x.atoll_words, w.q, 1)) as score, sum(w.weight) filter (where x.atoll_words @@ w.q) as covered from weight w) s
        )
        select coalesce(jsonb_agg(key || to_jsonb(score) order by score desc, key), '[]') from scored where covered >= 0.5 * covered_best $f$,
        (select string_agg(format('m.%I', k), ', ') from unnest(p.keys) k), p.tbl, p.words, filter,
        (select 'jsonb_build_array(' || string_agg(format('m.%I::text', k), ', ') || ')' from unnest(p.keys) k),
        (select string_agg(format('b.%1$I = m.%1$I', k), ' and ') from unnest(p.keys) k))
    into found using wished, needed, most, total, depth;
    return found;
end $$;

-- The stretch of a text in which most of what was looked for stands.
create or replace function atoll.snippet(txt text, needles text[], width integer default 300) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog as $$
declare
    low   constant text := lower(left(txt, 50000));
    start integer;
begin
    with place as materialized (select strpos(low, n) as at from unnest(needles) n where strpos(low, n) > 0)
    select a.at into start from place a order by (select count(*) from place b where b.at between a.at and a.at + width - 60) desc, a.at limit 1;
    if start is null or length(txt) <= width then
        return left(txt, width);
    end if;
    start := greatest(1, least(start - 60, length(txt) - width + 1));
    -- Words of letters stay whole.
    return regexp_replace(regexp_replace(substr(txt, start, width), case when start > 1 then '^[a-zA-Z0-9]*\s+' else '^$' end, ''), case when start + width <= length(txt) then '\s+[a-zA-Z0-9]*$' else '^$' end, '');
end $$;

drop function if exists atoll.search(text, text, double precision[], integer, jsonb, double precision, double precision);
create or replace function atoll.search(tbl text, query text default null, vector double precision[] default null, k integer default 10, filter jsonb default '{}',
                                        keyword_weight double precision default 1, vector_weight double precision default 1, version text default null)
returns table (rank integer, score float8, "table" text, key jsonb, "row" jsonb, snippet text, scope text, keyword_rank integer, vector_distance float8)
language plpgsql stable as $$
begin
    return query select * from atoll.search_table(atoll.find_table(tbl), query, vector, k, filter, keyword_weight, vector_weight, version);
end $$;
comment on function atoll.search(text, text, double precision[], integer, jsonb, double precision, double precision, text) is 'the rows of a table that fit words, a vector or both best';

drop function if exists atoll.search_table(regclass, text, double precision[], integer, jsonb, double precision, double precision);
create or replace function atoll.search_table(t regclass, query text, vector double precision[], k integer, filter jsonb, keyword_weight double precision, vector_weight double precision, version text)
returns table (rank integer, score float8, "table" text, key jsonb, "row" jsonb, snippet text, scope text, keyword_rank integer, vector_distance float8)
language plpgsql stable set search_path = pg_catalog as $$
#variable_conflict use_variable
declare
    p     constant record := atoll.search_plan(t);
    depth constant integer := greatest(3 * k, 30);
    cond  text;
    asked record;
    near  jsonb := '[]';
    words jsonb := '[]';
begin
    perform atoll.check_search(p, query, vector, k, keyword_weight, vector_weight);
    cond := atoll.filter_of(t, coalesce(filter, '{}'));
    if vector is not null and vector_weight > 0 then
        near := atoll.find_near(p, cond, case when p.held_in is not null and version is not null then format(' and v.model_version = %L', version) else '' end, vector, k, depth);
    end if;
    if query is not null and p.body is not null and keyword_weight > 0 then
        asked := atoll.read_query(('pg_catalog.' || quote_ident(p.language))::regconfig, query);
        if cardinality(asked.wished) > 0 then
            words := atoll.find_words(p, cond, asked.wished, asked.needed, depth);
        elsif vector is null and numnode(asked.needed) > 0 then
            perform atoll.refuse('search-malformed', 'the query says only what must not be there', hint => 'Add a word that should be.');
        end if;
    end if;
    return query execute format($f$
        with near as (select %1$s, (r.hit->>%2$s)::float8 as atoll_away, r.place as atoll_near from jsonb_array_elements($1) with ordinality r (hit, place)),
        words as (select %1$s, r.place as atoll_word from jsonb_array_elements($2) with ordinality r (hit, place)),
        fused as (select *, coalesce($3::float8 / (60 + atoll_word), 0) + coalesce($4::float8 / (60 + atoll_near), 0) as atoll_score from near full join words using (%3$s))
        select row_number() over (order by f.atoll_score desc, f.atoll_away, %4$s)::integer, f.atoll_score, %10$L::text, to_jsonb(x), to_jsonb(y),
               atoll.snippet(%6$s, $5), (%7$s)::text, f.atoll_word::integer, f.atoll_away
          from fused f join %5$s m using (%3$s) cross join lateral (select %4$s) x cross join lateral (select %8$s) y
         where true%9$s order by 1 limit $6 $f$,
        (select string_agg(format('(r.hit->>%s)::%s as %I', i - 1, y, n), ', ') from unnest(p.keys, p.key_types) with ordinality u (n, y, i)),
        cardinality(p.keys),
        (select string_agg(quote_ident(n), ', ') from unnest(p.keys) n),
        (select string_agg(format('m.%I', n), ', ') from unnest(p.keys) n),
        p.tbl, coalesce(p.body, ''''''), p.scope,
        (select string_agg(format('m.%I', n), ', ') from unnest(p.shown) n where has_column_privilege(t, n, 'select')), cond, p.tbl)
    using near, words, keyword_weight, vector_weight,
          case when query is null then '{}' else atoll.needles(('pg_catalog.' || quote_ident(p.language))::regconfig, query) end, k;
end $$;

-- What of a query may be seen in a text.
create or replace function atoll.needles(config regconfig, query text) returns text[]
language sql immutable parallel safe
return (select coalesce(array_agg(n) filter (where length(n) > 1), array_agg(n), '{}') from unnest(tsvector_to_array(atoll.words(config, query))) n);

create or replace function atoll.check_search(p record, query text, vector double precision[], k integer, keyword_weight double precision, vector_weight double precision) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if p.language is null then
        perform atoll.refuse('search-undeclared', format('table %s is not declared to be searched', p.tbl), hint => format('Its owner says what is: select atoll.searchable(%L, text => ''{title,body}'', embedding => ''embedding'')', p.tbl));
    elsif p.problem is not null then
        perform atoll.refuse('search-column', format('cannot search table %s: %s', p.tbl, p.problem), hint => 'Declare anew what is searched, with atoll.searchable.');
    elsif k is null or k not between 1 and 1000 then
        perform atoll.refuse('search-malformed', 'k is a number from 1 to 1000');
    elsif length(query) > 1000 then
        perform atoll.refuse('search-malformed', 'a query has 1000 characters at most');
    elsif not coalesce(keyword_weight >= 0 and vector_weight >= 0 and keyword_weight + vector_weight between 0.001 and 1000, false) then
        perform atoll.refuse('search-malformed', 'weights are numbers from 0 to 1000, and one is more than 0');
    elsif coalesce(btrim(query), '') = '' and vector is null then
        perform atoll.refuse('search-malformed', 'neither words nor a vector are given', hint => 'For example: select * from atoll.search(''document'', ''coral reef'')');
    elsif vector is null and p.body is null then
        perform atoll.refuse('search-malformed', format('table %s is searched by vectors only', p.tbl), hint => 'Give the vector of the query, or declare columns of text with atoll.searchable.');
    elsif vector is null then
        return;
    elsif p.embedding is null then
        perform atoll.refuse('search-vector', format('table %s is searched by words only', p.tbl), hint => 'Leave the vector away, or declare a column of vectors with atoll.searchable.');
    elsif p.vectors is null then
        perform atoll.refuse('vector-missing', 'cannot search by vectors here: pgvector 0.8 or newer is not in this database', hint => 'Search by words, or have a superuser make it: create extension vector');
    elsif cardinality(vector) <> p.dims then
        perform atoll.refuse('search-vector', format('the vector has %s dimensions, column "%s" has %s', cardinality(vector), p.embedding, p.dims), hint => 'It has to come from the same model.');
    elsif array_ndims(vector) <> 1 or exists (select from unnest(vector) v where v is null or v in ('NaN', 'Infinity', '-Infinity')) or not exists (select from unnest(vector) v where v <> 0) then
        perform atoll.refuse('search-vector', 'the vector has no direction: it is zero, or not all of it are numbers');
    end if;
end $$;
