-- Search: which words a text has, and what is to be searched.
--
-- PostgreSQL's parser takes a run of Chinese or Japanese for one word. Here such a run becomes its overlapping pairs of
-- characters, on the side of the text and on that of the query. The indexes are on expressions, so users' tables stay as
-- they are: a declaration is a row of atoll.search_rule, and every node makes and drops indexes by what it says.

-- The characters of scripts that write words without spaces between them, and of Korean, whose words carry endings.
create or replace function atoll.uncut() returns text
language sql immutable parallel safe
return '[\u3005-\u3007\u3041-\u30FA\u30FC-\u30FF\u3400-\u4DBF\u4E00-\u9FFF\uAC00-\uD7AF\uF900-\uFAFF\U00020000-\U0003FFFF]';

-- "数据库" becomes "数 数据 据库 库": each character twice with a space between them, which leaves pairs.
-- What is indexed must never fail an insert, so a text counts up to a length that no tsvector is too small for.
create or replace function atoll.cut(txt text) returns text
language plpgsql immutable parallel safe set search_path = pg_catalog as $$
begin
    txt := left(txt, 50000);
    if octet_length(txt) = length(txt) then
        return txt;
    end if;
    return regexp_replace(regexp_replace(normalize(txt, NFKC), '(' || atoll.uncut() || '+)', ' \1 ', 'g'), '(' || atoll.uncut() || ')', '\1 \1', 'g');
end $$;

-- The words of a text. Indexes hold what this says: one that says something else needs another name.
create or replace function atoll.words(config regconfig, txt text) returns tsvector
language plpgsql immutable parallel safe cost 1000 set search_path = pg_catalog as $$
begin
    return to_tsvector(config, atoll.cut(txt));
end $$;

-- Words that follow each other. The single characters at the ends of runs are only there where a run ends in the text too.
create or replace function atoll.phrase(config regconfig, txt text) returns tsquery
language sql immutable parallel safe
return case when txt ~ ('^\s*' || atoll.uncut() || '\s*$') then format('''%s'':*', btrim(txt))::tsquery
            else phraseto_tsquery(config, regexp_replace(regexp_replace(atoll.cut(txt), '^\s*' || atoll.uncut() || '\s+(?=' || atoll.uncut() || '{2})', ''),
                                                         '(?<=' || atoll.uncut() || '{2})\s+' || atoll.uncut() || '\s*$', '')) end;

-- What a query asks for. A word is wished for, a "phrase" has to be there, -word and -"phrase" must not; word* is a beginning.
-- A run of characters is wished for pair by pair, so that a question finds what has most of it.
create or replace function atoll.read_query(config regconfig, query text, out wished tsquery[], out needed tsquery)
language plpgsql immutable parallel safe set search_path = pg_catalog set client_min_messages = warning as $$
declare
    part   text;
    word   text;
    run    text;
    q      tsquery;
    is_not boolean;
begin
    wished := '{}';
    needed := '';
    for part in select m[1] from regexp_matches(translate(normalize(query, NFKC), '“”„「」『』', '"""""""'), '(-?"[^"]*"|[^\s"]+)', 'g') m loop
        is_not := part ~ '^-.';
        word := btrim(case when is_not then substr(part, 2) else part end, '"');
        if is_not or part like '"%' then
            q := case when part !~ '"' and word ~ '\w\*$' and word !~ atoll.uncut() then atoll.beginning(config, word) else atoll.phrase(config, word) end;
            continue when numnode(q) = 0;
            needed := needed && case when is_not then !!q else q end;
            if not is_not then
                wished := wished || q;
            end if;
            continue;
        end if;
        for run in select m[1] from regexp_matches(word, '(' || atoll.uncut() || '+|' || replace(atoll.uncut(), '[', '[^') || '+)', 'g') m loop
            if run ~ ('^' || atoll.uncut() || '{2}') then
                wished := wished || array(select atoll.phrase(config, substr(run, i, 2)) from generate_series(1, length(run) - 1) i);
            else
                wished := wished || case when run ~ '\w\*$' then atoll.beginning(config, run) else atoll.phrase(config, run) end;
            end if;
        end loop;
    end loop;
    wished := array(select u.q::tsquery from unnest(wished::text[]) with ordinality u (q, i) where u.q <> '' group by u.q order by min(i) limit 64);
end $$;

-- Words that begin with something.
create or replace function atoll.beginning(config regconfig, word text) returns tsquery
language sql immutable parallel safe
return to_tsquery(config, '''' || replace(replace(rtrim(word, '*'), '\', '\\'), '''', '''''') || ''':*');

-- pgvector's schema, if it is here and new enough: before 0.8 a filter could leave an index without rows.
create or replace function atoll.vector_schema() returns text
language sql stable set search_path = pg_catalog
return (select quote_ident(n.nspname) from pg_extension e join pg_namespace n on n.oid = e.extnamespace
         where e.extname = 'vector' and string_to_array(substring(e.extversion from '^\d+\.\d+'), '.')::integer[] >= array[0, 8]);

-- How a table is searched: expressions over its row. A problem is why it is not.
drop function if exists atoll.search_plan(regclass, text);
create or replace function atoll.search_plan(t regclass, alias text default 'm.', out tbl text, out keys text[], out key_types text[], out shown text[], out body text, out words text,
                                             out language text, out embedding text, out kind text, out dims integer, out half text, out vectors text,
                                            out near text, out nearest text, out held_in text, out held_for text, out scope text, out problem text)
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    r     atoll.search_rule;
    l     atoll.local_table;
    e     atoll.embedding;
begin
    tbl := atoll.qualified(t);
    select * into r from atoll.search_rule s where s.tbl = search_plan.tbl;
    if r.tbl is null then
        return;
    end if;
    language := r.language;
    select array_agg(a.attname::text order by k.place), array_agg(format_type(a.atttypid, a.atttypmod) order by k.place) into keys, key_types
      from pg_index i cross join lateral unnest(i.indkey[0:i.indnkeyatts - 1]::int2[]) with ordinality k (num, place)
      join pg_attribute a on a.attrelid = t and a.attnum = k.num where i.indrelid = t and i.indisprimary;
    select string_agg(format('coalesce(%s%I::text, '''')', alias, a.attname), ' || E''\n'' || ' order by c.place) filter (where a.attname is not null), min(c.name) filter (where a.attname is null)
      into body, problem from unnest(r.texts) with ordinality c (name, place)
      left join pg_attribute a on a.attrelid = t and a.attname = c.name and a.attnum > 0 and not a.attisdropped
                              and (select typcategory from pg_type where oid = a.atttypid) = 'S';
    words := 'atoll.words(' || quote_literal('pg_catalog.' || quote_ident(r.language)) || '::regconfig, ' || body || ')';
    select array_agg(a.attname::text order by a.attnum) into shown from pg_attribute a join pg_type y on y.oid = a.atttypid
     where a.attrelid = t and a.attnum > 0 and not a.attisdropped and (y.typcategory = 'S' or a.attname is distinct from r.embedding);
    select * into l from atoll.local_table k where k.name = search_plan.tbl and k.problem is null;
    scope := case when l.name is null then quote_literal('local') else atoll.row_scope(l, 'm') end;
    if problem is not null then
        problem := format('column "%s" does not exist or is no text', problem);
    elsif keys is null then
        problem := 'it has no primary key';
    elsif r.embedding is not null then
        embedding := r.embedding;
        vectors := atoll.vector_schema();
        select u.typname, a.atttypmod into kind, dims from pg_attribute a join pg_type u on u.oid = a.atttypid
         where a.attrelid = t and a.attname = r.embedding and a.attnum > 0 and not a.attisdropped and u.typname in ('vector', 'halfvec');
        select * into e from atoll.embedding_of(search_plan.tbl, r.embedding);
        if kind is null and e.tbl is not null then
            kind := 'vector';
            dims := e.dimensions;
            held_in := e.output;
            -- A table that more than one model has written to keeps those of each apart.
            held_for := format('%1$smodel = %2$L and %3$s.vector_dims(%1$sembedding) = %4$s', case alias when '' then '' else 'v.' end, e.model, vectors, dims);
            near := format('%s m join %s v on %s and m.%I is not null and %s', tbl, e.output,
                           (select string_agg(format('v.%1$I operator(%2$s) m.%1$I', k.name, k.equals), ' and ' order by k.place) from atoll.key_of(t) k), r.embedding, held_for);
            nearest := 'v.embedding';
            half := format('%1$s.l2_normalize(%2$sembedding)::%1$s.halfvec(%3$s)', vectors, case alias when '' then '' else 'v.' end, dims);
        elsif kind is null and body is not null and exists (select from pg_attribute a where a.attrelid = t and a.attname = r.embedding and not a.attisdropped) then
            embedding := null;      -- it is embedded elsewhere, or not any more: words find rows all the same
        elsif kind is null or dims not between 1 and 4000 then
            problem := format('column "%s" is no vector or halfvec with 1 to 4000 dimensions, and is not embedded', r.embedding);
        else
            near := tbl || ' m';
            nearest := format('m.%I', r.embedding);
            half := format('%1$s.l2_normalize(%2$s%3$I)::%1$s.halfvec(%4$s)', vectors, alias, r.embedding, dims);
        end if;
    end if;
end $$;

-- Declares that a table can be searched, on every node.
create or replace function atoll.searchable(tbl text, text text[] default '{}', embedding text default null, language text default 'simple') returns text
language plpgsql as $$
begin
    return atoll.set_search_rule(atoll.find_table(tbl), coalesce(text, '{}'), embedding, language);
end $$;
comment on function atoll.searchable(text, text[], text, text) is 'says which columns of a table are searched, by words and by vectors';

create or replace function atoll.set_search_rule(t regclass, of_texts text[], of_embedding text, of_language text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    full_name constant text := atoll.qualified(t);
    bad       text;
begin
    perform atoll.check_owner(t);
    if cardinality(of_texts) = 0 and of_embedding is null then
        delete from atoll.search_rule s where s.tbl = full_name;
        return full_name;
    elsif not exists (select from pg_ts_config where cfgname = of_language and cfgnamespace = 'pg_catalog'::regnamespace) then
        perform atoll.refuse('search-column', format('language "%s" is not known', of_language), 'Every node has to have it, so it is one of those that PostgreSQL brings.', 'For example simple, english or german. Chinese, Japanese and Korean need none.');
    elsif of_embedding is not null and atoll.vector_schema() is null then
        perform atoll.refuse('vector-missing', 'cannot search by vectors here: pgvector 0.8 or newer is not in this database', hint => 'A superuser makes it: create extension vector');
    elsif atoll.qualified(t) like any (array['atoll.%', 'atoll\_side.%', 'pg\_catalog.%']) then
        perform atoll.refuse('table-of-system', format('cannot search table %s: it belongs to the system', t));
    end if;
    insert into atoll.search_rule (tbl, texts, embedding, language) values (full_name, of_texts, of_embedding, of_language)
    on conflict on constraint search_rule_pkey do update set texts = excluded.texts, embedding = excluded.embedding, language = excluded.language
       where (search_rule.texts, search_rule.embedding, search_rule.language) is distinct from (excluded.texts, excluded.embedding, excluded.language);
    select coalesce(p.problem, case when p.embedding is distinct from of_embedding then format('column "%s" is no vector and is not embedded', of_embedding) end) into bad from atoll.search_plan(t) p;
    if bad is not null then
        perform atoll.refuse('search-column', format('cannot search table %s: %s', full_name, bad));
    end if;
    return full_name;
end $$;

-- The indexes that the declarations ask for here. An index is named after what it holds. Those over the vectors of an
-- embedded column are on the table of the vectors.
create or replace function atoll.search_indexes() returns table (tbl text, relid oid, name text, definition text)
language sql stable security definer set search_path = pg_catalog as $$
    select p.tbl, d.relid, 'atoll_search_' || left(md5(coalesce(p.held_in, p.tbl) || d.definition), 12), d.definition
      from atoll.search_rule r
      cross join lateral (select to_regclass(r.tbl) as relid) t
      cross join lateral atoll.search_plan(t.relid, '') p
      cross join lateral (
          select t.relid::oid as relid, format('gin ((%s))', p.words) as definition where p.body is not null
          union all
          select coalesce(to_regclass(p.held_in), t.relid)::oid, format('hnsw ((%s) %s.halfvec_cosine_ops)%s', p.half, p.vectors, ' where ' || p.held_for) where p.half is not null) d
     where t.relid is not null and p.problem is null
$$;

-- What is to be done next about indexes, one statement a row; each is to run by itself, outside of a transaction. What is
-- to be made has its name there; what was not finished goes first.
create or replace function atoll.search_work() returns table (name text, statement text)
language sql stable security definer set search_path = pg_catalog as $$
    with wanted as materialized (select * from atoll.search_indexes()),
    there as (
        select c.relname, i.indrelid, i.indisvalid, n.nspname, case when c.relkind = 'I' then '' else ' concurrently' end as how
          from pg_class c join pg_index i on i.indexrelid = c.oid join pg_namespace n on n.oid = c.relnamespace
         where c.relname like 'atoll\_search\_%'
    )
    select null::text, format('drop index%s %I.%I', e.how, e.nspname, e.relname) from there e
     where not e.indisvalid or not exists (select from wanted w where w.name = e.relname and w.relid = e.indrelid)
    union all
    select w.name, format('create index%s %I on %s using %s', case when c.relkind = 'p' then '' else ' concurrently' end, w.name, atoll.qualified(w.relid::regclass), w.definition)
      from wanted w join pg_class c on c.oid = w.relid left join atoll.search_trouble x on x.name = w.name
     where not exists (select from there e where e.relname = w.name and e.indrelid = w.relid) and coalesce(x.retry_at <= clock_timestamp(), true)
$$;

-- How a statement of that went.
create or replace function atoll.note_search_work(of_name text, of_problem text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    delete from atoll.search_trouble x where x.name not in (select i.name from atoll.search_indexes() i) or x.name = of_name and of_problem is null;
    insert into atoll.search_trouble as x (name, problem, retry_at) select of_name, of_problem, clock_timestamp() + interval '1 second' where of_name is not null and of_problem is not null
    on conflict on constraint search_trouble_pkey do update set problem = excluded.problem, tries = x.tries + 1,
        retry_at = clock_timestamp() + least(interval '1 second' * 2 ^ least(x.tries, 12), interval '5 minutes');
end $$;

create or replace function atoll.search_state() returns table ("table" text, text text[], embedding text, language text, indexed boolean, problem text)
language sql stable security definer set search_path = pg_catalog as $$
    with wanted as materialized (
        select w.*, exists (select from pg_class c join pg_index i on i.indexrelid = c.oid where c.relname = w.name and i.indrelid = w.relid and i.indisvalid) as is_there
          from atoll.search_indexes() w
    )
    select r.tbl, r.texts, r.embedding, r.language, coalesce((select bool_and(w.is_there) from wanted w where w.tbl = r.tbl), false),
           coalesce(case when t.relid is null then 'the table is not here' end, p.problem,
                    (select min(x.problem) from wanted w join atoll.search_trouble x using (name) where w.tbl = r.tbl),
                    case when r.embedding is not null and p.embedding is null then format('column "%s" is not embedded on this node', r.embedding)
                         when r.embedding is not null and p.vectors is null then 'pgvector 0.8 or newer is not in this database' end)
      from atoll.search_rule r cross join lateral (select to_regclass(r.tbl) as relid) t left join lateral atoll.search_plan(t.relid) p on true
     order by r.tbl
$$;

create or replace view atoll.searches as select * from atoll.search_state();
