-- Embeddings: what a column means becomes vectors, by a pipeline, and searches find rows by them.
--
-- The vectors are in a table of their own beside the searched one, with the model and its version. They never travel:
-- each node makes those of the rows that it holds. A vector goes as its row or its text does, whoever changed that, so
-- a search never compares a query with what a row no longer says; and whoever may not read the column does not see them.

create or replace function atoll.embed_column(tbl text, col text, model text, dimensions integer, kind text default 'text', place text default 'all', into_table text default null) returns text
language plpgsql as $$
declare
    t     constant regclass := atoll.find_table(tbl);
    p     atoll.pipeline;
    there boolean;
begin
    if into_table is not null then
        into_table := coalesce(atoll.qualified(to_regclass(into_table)), atoll.output_name(into_table));
    end if;
    p := atoll.plan_embedding(t, col, model, dimensions, kind, into_table);
    there := to_regclass(p.output) is not null;
    if not there then
        perform atoll.make_output(p.output, atoll.vectors_definition(t, p.output), t);
    end if;
    if not (there and atoll.is_embedded(p, col, dimensions, place)) then
        perform atoll.declare_embedding(p, col, dimensions, place);
    end if;
    perform atoll.search_by(t, col, kind);
    return p.output;
end $$;
comment on function atoll.embed_column(text, text, text, integer, text, text, text) is 'keeps what a column means as vectors, and has searches find rows by them';

-- Every reason not to embed a column, and the pipeline that does.
create or replace function atoll.plan_embedding(t regclass, of_col text, of_model text, size integer, of_kind text, into_table text) returns atoll.pipeline
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    c     pg_class;
    e     atoll.embedding;
    p     atoll.pipeline;
    basis text;
    types constant text := case of_kind when 'text' then 'S' when 'image' then 'U' end;
begin
    select * into c from pg_class where oid = t;
    select * into e from atoll.embedding x where x.tbl = atoll.qualified(t) and x.col = of_col;
    if types is null then
        perform atoll.refuse('embedding-column', format('kind "%s" does not exist', of_kind), hint => 'It is text or image.');
    elsif not exists (select from pg_attribute a join pg_type y on y.oid = a.atttypid where a.attrelid = t and a.attname = of_col and a.attnum > 0 and not a.attisdropped
                         and y.typcategory = types and (of_kind = 'text' or y.oid = 'bytea'::regtype)) then
        perform atoll.refuse('embedding-column', format('column "%s" of table %s does not exist or is no %s', of_col, t, case of_kind when 'text' then 'text' else 'bytea' end));
    elsif size is null or size not between 1 and 4000 then
        perform atoll.refuse('embedding-column', format('cannot keep vectors with %s dimensions', coalesce(size::text, 'unknown')), hint => 'An index holds 1 to 4000. atoll embed-column asks the model how many it gives.');
    elsif atoll.vector_schema() is null then
        perform atoll.refuse('vector-missing', 'cannot keep vectors here: pgvector 0.8 or newer is not in this database', hint => 'A superuser makes it: create extension vector');
    end if;
    basis := c.relname || '_' || of_col || '_vector';
    if octet_length(basis) > 63 then
        basis := 'vector_' || md5(basis);
    end if;
    p.name := coalesce(e.pipeline, left(basis, 40));
    if p.name !~ '^[a-z][a-z0-9_]*$' or e.pipeline is null and exists (select from atoll.pipeline x where x.name = p.name) then
        p.name := 'vector_' || left(md5(atoll.qualified(t) || of_col), 12);
    end if;
    p := atoll.plan_pipeline(p.name, t, format('r.%I', of_col), of_model, of_kind, 'embed', 'all', 256, 3, '{}', true);
    p.output := coalesce(into_table, e.output, format('%I.%I', (select nspname from pg_namespace where oid = c.relnamespace), basis));
    if to_regclass(p.output) is not null and p.output is distinct from e.output and not atoll.holds_vectors(t, p.output::regclass) then
        perform atoll.refuse('pipeline-output', format('table %s is there already and is not made for vectors', p.output), hint => 'Name another: atoll embed-column … --into TABLE');
    end if;
    p.columns := (select string_agg(format('r.%I', k.name), ', ' order by k.place) from atoll.key_of(t) k)
                 || format(', case when r.%I is not null then (result->>''embedding'')::%s.vector end as embedding, model, model_version, clock_timestamp() as scored_at', of_col, atoll.vector_schema());
    p.names := array(select k.name from atoll.key_of(t) k order by k.place) || '{embedding,model,model_version,scored_at}'::text[];
    p.condition := 'true';
    return p;
end $$;

create or replace function atoll.vectors_definition(t regclass, called text) returns text
language sql stable security definer set search_path = pg_catalog
return replace(atoll.output_definition(t, called, 'embed'), 'embedding real[]', format('embedding %s.vector', atoll.vector_schema()));

-- Is a table one that could have been made for the vectors of another one's rows?
create or replace function atoll.holds_vectors(t regclass, made regclass) returns boolean
language sql stable security definer set search_path = pg_catalog
return (select array_agg((k.name, k.type) order by k.place) from atoll.key_of(t) k) = (select array_agg((k.name, k.type) order by k.place) from atoll.key_of(made) k)
   and (select count(*) from pg_attribute a where a.attrelid = made and not a.attisdropped and (a.attname = 'embedding' and a.atttypid::regtype::text ~ 'vector$' or a.attname in ('model', 'model_version', 'scored_at'))) = 4;

-- Is all of that declared already? Then nothing is made anew.
create or replace function atoll.is_embedded(p atoll.pipeline, of_col text, size integer, at_place text) returns boolean
language sql stable security definer set search_path = pg_catalog
return exists (select from atoll.embedding e join atoll.pipeline x on x.name = e.pipeline
                where e.tbl = p.source and e.col = of_col and (e.pipeline, e.output, e.model, e.dimensions) = (p.name, p.output, p.model, size)
                  and (x.source, x.output, x.kind, x.columns, x.place) = (p.source, p.output, p.kind, p.columns, atoll.place_of(at_place)));

create or replace function atoll.declare_embedding(p atoll.pipeline, of_col text, size integer, at_place text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    said constant atoll.pipeline := atoll.plan_embedding(p.source::regclass, of_col, p.model, size, p.kind, p.output);
begin
    insert into atoll.embedding (tbl, col, pipeline, output, model, dimensions) values (said.source, of_col, said.name, said.output, said.model, size)
    on conflict on constraint embedding_pkey do update set pipeline = excluded.pipeline, output = excluded.output, model = excluded.model, dimensions = excluded.dimensions;
    perform atoll.declare_pipeline(said, at_place);
    perform atoll.install_embeddings();
end $$;

-- Searches find rows by these vectors, unless they go by others already.
create or replace function atoll.search_by(t regclass, of_col text, of_kind text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    r atoll.search_rule;
begin
    perform atoll.check_owner(t);
    select * into r from atoll.search_rule x where x.tbl = atoll.qualified(t);
    if r.tbl is null then
        perform atoll.set_search_rule(t, case of_kind when 'text' then array[of_col] else '{}' end, of_col, 'simple');
    elsif r.embedding is null then
        perform atoll.set_search_rule(t, r.texts, of_col, r.language);
    end if;
end $$;

-- What of it is carried out on this node is made true: one whose pipeline runs here gets triggers, rights and the rows
-- that are there; what a model made before does not stay beside what another makes.
create or replace function atoll.install_embeddings() returns void
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '5s' as $$
declare
    d record;
begin
    perform pg_advisory_xact_lock(x'61746f6c'::int, 4);
    for d in select l.* from atoll.local_embedding l left join atoll.embedding e using (tbl, col) left join atoll.pipeline_state s on s.pipeline = e.pipeline and s.relid = l.relid where s.pipeline is null loop
        perform atoll.uninstall_embedding(d.tbl, d.col, d.relid);
    end loop;
    for d in select e, s.relid, s.declared from atoll.embedding e join atoll.pipeline_state s on s.pipeline = e.pipeline left join atoll.local_embedding l using (tbl, col)
              where s.problem is null and s.declared is distinct from l.declared and s.relid = to_regclass(e.tbl) and to_regclass(e.output) is not null
    loop
        perform atoll.uninstall_embedding((d.e).tbl, (d.e).col, d.relid);
        perform atoll.install_embedding(d.e);
        insert into atoll.local_embedding (tbl, col, relid, declared) values ((d.e).tbl, (d.e).col, d.relid, d.declared);
    end loop;
end $$;

create or replace function atoll.vectors_name(of_tbl text, of_col text) returns text
language sql immutable
return 'atoll_vectors_' || left(md5(of_tbl || ' ' || of_col), 12);

create or replace function atoll.install_embedding(e atoll.embedding) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    name constant text := atoll.vectors_name(e.tbl, e.col);
    fits text;
    part text;
begin
    select string_agg(format('{a}.%1$I operator(%2$s) {b}.%1$I', k.name, k.equals), ' and ' order by k.place) into fits from atoll.key_of(e.tbl::regclass) k;
    execute atoll.render($template$
create or replace function {{function}}() returns trigger
language plpgsql security definer set search_path = pg_catalog as $body$
begin
    if to_regclass({{name}}) is null then
        return null;
    elsif tg_op = 'TRUNCATE' then
        delete from {{output}};
    elsif tg_op = 'DELETE' then
        delete from {{output}} v using old_rows o where {{v_is_o}};
    else
        delete from {{output}} v using old_rows o
         where {{v_is_o}} and not exists (select from new_rows n where {{n_is_o}} and n.{{col}} is not distinct from o.{{col}});
    end if;
    return null;
end $body$;
$template$, jsonb_build_object('function', 'atoll_side.' || name, 'name', quote_literal(e.output), 'output', e.output, 'col', quote_ident(e.col),
        'v_is_o', replace(replace(fits, '{a}', 'v'), '{b}', 'o'), 'n_is_o', replace(replace(fits, '{a}', 'n'), '{b}', 'o')));
    foreach part in array array['update referencing old table as old_rows new table as new_rows', 'delete referencing old table as old_rows', 'truncate'] loop
        execute format('create trigger %I after %s on %s %s for each statement execute function atoll_side.%I()', name || '_' || split_part(part, ' ', 1), split_part(part, ' ', 1), e.tbl,
                       coalesce(substring(part from 'referencing.*'), ''), name);
        execute format('alter table %s enable always trigger %I', e.tbl, name || '_' || split_part(part, ' ', 1));
    end loop;
    -- A vector tells what the column says. Only who may read the row's column may see it; the worker comes as the application.
    execute format('alter table %s enable row level security', e.output);
    foreach part in array array['see', 'add', 'change'] loop
        execute format('drop policy if exists %I on %s', 'atoll_' || part, e.output);
    end loop;
    execute format('create policy atoll_see on %1$s for select using (exists (select from %2$s m where %3$s and m.%4$I is not null))', e.output, e.tbl,
                   (select string_agg(format('m.%1$I operator(%2$s) %3$s.%1$I', k.name, k.equals, e.output), ' and ' order by k.place) from atoll.key_of(e.tbl::regclass) k), e.col);
    execute format('create policy atoll_add on %s for insert with check (true)', e.output);
    execute format('create policy atoll_change on %s for update using (true)', e.output);
    execute format('grant select on %s to public', e.output);
    if exists (select from pg_roles where rolname = 'app') then
        execute format('grant insert, update on %s to app', e.output);
    end if;
    execute format('delete from %s v where v.model <> %L or not exists (select from %s m where %s)', e.output, e.model, e.tbl, replace(replace(fits, '{a}', 'm'), '{b}', 'v'));
    update atoll.pipeline_state s set backfill_from = '{}', model_version = null where s.pipeline = e.pipeline;
    notify atoll_pipelines;
end $$;

create or replace function atoll.uninstall_embedding(of_tbl text, of_col text, t oid) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    name constant text := atoll.vectors_name(of_tbl, of_col);
    part text;
begin
    foreach part in array array['update', 'delete', 'truncate'] loop
        if exists (select from pg_trigger where tgrelid = t and tgname = name || '_' || part) then
            execute format('drop trigger %I on %s', name || '_' || part, t::regclass);
        end if;
    end loop;
    execute format('drop function if exists atoll_side.%I()', name);
    delete from atoll.local_embedding l where l.tbl = of_tbl and l.col = of_col;
end $$;

-- The vectors of a column, where there are any on this node.
create or replace function atoll.embedding_of(of_tbl text, of_col text) returns setof atoll.embedding
language sql stable security definer set search_path = pg_catalog
begin atomic
    select e.* from atoll.embedding e join atoll.pipeline p on p.name = e.pipeline and p.source = e.tbl where e.tbl = of_tbl and e.col = of_col and to_regclass(e.output) is not null;
end;

-- The model that makes the vectors of queries for a table, and the version that made those of its rows here.
create or replace function atoll.query_model(tbl text) returns table (model text, version text, is_behind boolean)
language plpgsql stable as $$
begin
    return query select * from atoll.query_model_of(atoll.find_table(tbl));
end $$;
comment on function atoll.query_model(text) is 'which model''s vectors a table is searched by, and whether some are not made yet';

create or replace function atoll.query_model_of(t regclass) returns table (model text, version text, is_behind boolean)
language sql stable security definer set search_path = pg_catalog
begin atomic
    select e.model, s.model_version, s.backfill_from is not null or exists (select from atoll.pipeline_entry x where x.pipeline = e.pipeline and x.retry_at < 'infinity')
      from atoll.search_rule r join atoll.embedding e on e.tbl = r.tbl and e.col = r.embedding
      join atoll.pipeline p on p.name = e.pipeline and p.kind = 'text'
      left join atoll.pipeline_state s on s.pipeline = e.pipeline and s.declared = p.declared
     where r.tbl = atoll.qualified(t);
end;
