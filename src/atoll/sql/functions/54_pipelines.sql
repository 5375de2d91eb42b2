-- Declaring pipelines. What a declaration says is tried with the caller's rights first, so that a mistake is an error at
-- once; then it is a row of atoll.pipeline, and every node carries it out (55_queueing.sql).
--
-- Expressions are never run by the node: atoll.pipeline_state has two statements made of them, one that reads the rows
-- that wait and one that writes what came of them, and the worker runs these as the application's role.

create or replace function atoll.add_pipeline(pipeline text, source text, input text, model text, output text, kind text default 'tensor', task text default null,
    columns text default null, condition text default null, mode text default 'own', place text default 'all', scope text default null,
    batch_max integer default 512, tries_max integer default 3, options jsonb default '{}', rescore boolean default false) returns text
language plpgsql as $$
declare
    p     atoll.pipeline;
    t     regclass;
    into_ text;
begin
    t := atoll.find_table(source);
    p := atoll.plan_pipeline(pipeline, t, input, model, kind, coalesce(task, case kind when 'text' then 'generate' else 'infer' end), mode, batch_max, tries_max, options, rescore);
    perform atoll.try_expression('input', input, t);
    if to_regclass(output) is null then
        into_ := atoll.output_name(output);
        if columns is not null then
            perform atoll.refuse('pipeline-output', format('there is no table %s, and columns are given', into_), hint => 'Make the table first, or leave the columns away.');
        end if;
        perform atoll.make_output(into_, atoll.output_definition(t, into_, p.task), t);
    else
        into_ := atoll.qualified(output::regclass);
    end if;
    p.output := into_;
    p.columns := coalesce(columns, atoll.usual_columns(t, into_::regclass, p.task));
    p.condition := coalesce(condition, 'true');
    p.names := atoll.try_columns(p.columns, t);
    perform atoll.try_expression('condition', p.condition, t);
    if scope is not null then
        perform atoll.share(into_, scope => scope);
    end if;
    p := atoll.stamped(p);
    begin
        execute 'explain ' || replace(replace(replace(replace(replace(atoll.write_statement(p), '$1', '''{}'''), '$2', '''{}'''), '$3', '''{}'''), '$4', 'null'), '$5', 'null');
    exception when others then
        perform atoll.refuse('pipeline-expression', format('cannot write the columns to table %s: %s', into_, sqlerrm), hint => 'columns is a SELECT list over r and result, each item with the name of a column.');
    end;
    return atoll.declare_pipeline(p, place);
end $$;
comment on function atoll.add_pipeline(text, text, text, text, text, text, text, text, text, text, text, text, integer, integer, jsonb, boolean) is 'has a model score the rows of a table as they are written';

-- Every reason not to follow a table, and a declaration made of the rest.
create or replace function atoll.plan_pipeline(called text, t regclass, input text, of_model text, of_kind text, of_task text, of_mode text, most integer, tries integer, with_options jsonb, again boolean) returns atoll.pipeline
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    c pg_class;
    p atoll.pipeline;
begin
    if coalesce(called, '') !~ '^[a-z][a-z0-9_]{0,39}$' then
        perform atoll.refuse('pipeline-name', format('cannot name a pipeline %s', coalesce(quote_literal(called), 'null')), hint => 'A small letter, then up to 39 small letters, digits and underscores.');
    elsif of_kind is null or of_kind not in ('tensor', 'text', 'image', 'audio', 'json') then
        perform atoll.refuse('pipeline-option', format('kind "%s" does not exist', of_kind), hint => 'It is tensor, text, image, audio or json.');
    elsif of_task not in ('infer', 'embed', 'generate') or not (of_kind = 'text' or of_task = 'infer' or of_kind = 'image' and of_task = 'embed') then
        perform atoll.refuse('pipeline-option', format('%s is not asked for task "%s"', of_kind, of_task), hint => 'Text is asked for embed, generate or infer, an image for embed or infer; everything else for infer.');
    elsif of_mode is null or of_mode not in ('own', 'arriving', 'all') then
        perform atoll.refuse('pipeline-option', format('mode "%s" does not exist', of_mode), hint => 'It is own, arriving or all.');
    elsif most is null or most not between 1 and 4096 or tries is null or tries not between 1 and 100 then
        perform atoll.refuse('pipeline-option', 'batch_max is 1 to 4096, and tries_max 1 to 100');
    elsif jsonb_typeof(with_options) is distinct from 'object' then
        perform atoll.refuse('pipeline-option', 'options is not an object');
    elsif coalesce(of_model, '') = '' or coalesce(input, '') = '' then
        perform atoll.refuse('pipeline-option', 'a pipeline needs a model and an input');
    elsif (select count(*) from atoll.pipeline x where x.name <> called) >= 32 then
        perform atoll.refuse('pipelines-too-many', 'there are 32 pipelines already', hint => 'Drop one that is not needed: select atoll.drop_pipeline(…)');
    end if;
    select * into c from pg_class where oid = t;
    if c.relnamespace in ('atoll'::regnamespace, 'atoll_side'::regnamespace, 'pg_catalog'::regnamespace, 'information_schema'::regnamespace) then
        perform atoll.refuse('pipeline-source', format('cannot follow table %s: it belongs to the system', t));
    elsif c.relkind <> 'r' or c.relispartition or c.relpersistence = 't' or exists (select from pg_inherits i where i.inhrelid = t or i.inhparent = t) then
        perform atoll.refuse('pipeline-source', format('cannot follow %s: it is not an ordinary table', t), 'Views, partitioned, inheriting, foreign and temporary tables are not followed.');
    elsif not exists (select from pg_index where indrelid = t and indisprimary) then
        perform atoll.refuse('pipeline-source', format('cannot follow table %s: it has no primary key', t), hint => 'Add one, for example: id bigint primary key default atoll.id()');
    end if;
    perform atoll.check_owner(t);
    p.name := called;
    p.source := atoll.qualified(t);
    p.input := input;
    p.kind := of_kind;
    p.task := of_task;
    p.model := of_model;
    p.mode := of_mode;
    p.batch_max := most;
    p.tries_max := tries;
    p.options := with_options;
    p.rescores := coalesce(again, false);
    return p;
end $$;

-- The key of a table: its columns with type and equality.
create or replace function atoll.key_of(t oid) returns table (name text, type text, equals text, place bigint)
language sql stable security definer set search_path = pg_catalog
begin atomic
    select a.attname::text, format_type(a.atttypid, a.atttypmod), atoll.equality(a.atttypid, i.indclass[k.place - 1]), k.place
      from pg_index i cross join lateral unnest(i.indkey[0:i.indnkeyatts - 1]::int2[]) with ordinality k (num, place)
      join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.num
     where i.indrelid = t and i.indisprimary order by k.place;
end;

-- The condition under which row r is the one of a key.
create or replace function atoll.is_of_key(t oid, key text) returns text
language sql stable set search_path = pg_catalog
return (select string_agg(format('r.%I operator(%s) (%s->>%L)::%s', name, equals, key, name, type), ' and ' order by place) from atoll.key_of(t));

create or replace function atoll.output_name(said text) returns text
language plpgsql stable as $$
declare
    parts text[];
begin
    parts := parse_ident(said);
    if cardinality(parts) > 2 then
        perform atoll.refuse('pipeline-output', format('cannot make table %s', said), hint => 'Name it table or schema.table.');
    end if;
    return case cardinality(parts) when 2 then format('%I.%I', parts[1], parts[2]) else format('%I.%I', coalesce(current_schema(), 'public'), parts[1]) end;
exception when invalid_parameter_value then
    perform atoll.refuse('pipeline-output', format('table name %s is malformed', quote_literal(said)));
end $$;

-- What is kept of each score, beside the key of its row.
create or replace function atoll.output_columns(of_task text) returns table (name text, type text, value text)
language sql stable set search_path = pg_catalog as $$
    select c.* from (values ('infer', 'label', 'text', 'result->>''label'''),
                          ('infer', 'score', 'double precision', '(result->>''score'')::double precision'),
                          ('infer', 'result', 'jsonb', 'result'),
                          ('generate', 'text', 'text', 'result->>''text'''),
                          ('embed', 'embedding', coalesce(to_regtype('public.vector')::text, 'real[]'),
                           case when to_regtype('public.vector') is null then 'array(select jsonb_array_elements_text(result->''embedding''))::real[]' else '(result->>''embedding'')::public.vector' end))
        v (task, name, type, value), lateral (select v.name, v.type, v.value) c
     where v.task = of_task
$$;

create or replace function atoll.output_definition(t regclass, called text, of_task text) returns text
language plpgsql stable set search_path = pg_catalog as $$
begin
    if exists (select from atoll.key_of(t) k where k.name in (select o.name from atoll.output_columns(of_task) o) or k.name in ('model', 'model_version', 'scored_at')) then
        perform atoll.refuse('pipeline-output', format('cannot make table %s: the key of %s has a column of a name that the scores need', called, t), hint => 'Make the table yourself, and give the columns.');
    end if;
    return format('create table %s (%s, %s, model text not null, model_version text not null, scored_at timestamptz not null, primary key (%s))', called,
        (select string_agg(format('%I %s not null', name, type), ', ' order by place) from atoll.key_of(t)),
        (select string_agg(format('%I %s', name, case type when 'vector' then 'public.vector' else type end), ', ') from atoll.output_columns(of_task)),
        (select string_agg(quote_ident(name), ', ' order by place) from atoll.key_of(t)));
end $$;

-- The columns of the list above that a table has.
create or replace function atoll.usual_columns(t regclass, into_table regclass, of_task text) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    found text;
begin
    if exists (select from atoll.key_of(t) k where not exists (select from pg_attribute a where a.attrelid = into_table and a.attname = k.name and not a.attisdropped)) then
        perform atoll.refuse('pipeline-output', format('table %s has no column for the key of %s', into_table, t), hint => 'Say which columns to fill with what: columns => ''r.id as reading, result->>''''label'''' as label''');
    end if;
    select string_agg(item, ', ' order by rank, place) into found from (
        select 1 as rank, k.place, format('r.%I', k.name) as item from atoll.key_of(t) k
        union all
        select 2, row_number() over (), format('%s as %I', o.value, o.name) from atoll.output_columns(of_task) o
         where exists (select from pg_attribute a where a.attrelid = into_table and a.attname = o.name and not a.attisdropped)) items;
    return found;
end $$;

-- Tried with the caller's rights, on a row of the table if there is one.
create or replace function atoll.try_expression(argument text, expression text, t regclass) returns void
language plpgsql as $$
begin
    execute format('explain select (%s) from %s r, (select null::jsonb as result, null::text as model, null::text as model_version) s', expression, atoll.qualified(t));
    if argument = 'condition' then
        execute format('explain select from %s r, (select null::jsonb as result, null::text as model, null::text as model_version) s where (%s)', atoll.qualified(t), expression);
    else
        execute format('select (%s) from %s r limit 1', expression, atoll.qualified(t));
    end if;
exception when others then
    perform atoll.refuse('pipeline-expression', format('cannot evaluate %s: %s', argument, sqlerrm),
        hint => case argument when 'input' then 'It is an expression over the row r, such as array[r.temp, r.vibration].' else 'It is a condition over r and result, such as result->>''label'' <> ''normal''.' end);
end $$;

create or replace function atoll.try_columns(list text, t regclass) returns text[]
language plpgsql as $$
declare
    names text[];
begin
    execute format('select array(select json_object_keys(row_to_json(x))) from (select %s from (select (null::%s).*) r, (select null::jsonb as result, null::text as model, null::text as model_version) s) x', list, atoll.qualified(t)) into names;
    return names;
exception when others then
    perform atoll.refuse('pipeline-expression', format('cannot evaluate columns: %s', sqlerrm), hint => 'It is a SELECT list over r and result, such as r.id, result->>''label'' as label.');
end $$;

-- Model, version and time are kept wherever the output has columns of these names that the list leaves out.
create or replace function atoll.stamped(p atoll.pipeline) returns atoll.pipeline
language plpgsql stable set search_path = pg_catalog as $$
declare
    c record;
begin
    for c in select v.* from (values ('model', 's.model'), ('model_version', 's.model_version'), ('scored_at', 'clock_timestamp()')) v (name, value)
              where v.name <> all (p.names) and exists (select from pg_attribute a where a.attrelid = p.output::regclass and a.attname = v.name and not a.attisdropped)
    loop
        p.columns := p.columns || format(', %s as %s', c.value, c.name);
        p.names := p.names || c.name;
    end loop;
    return p;
end $$;

-- The output belongs to the source's owner, whoever declares the pipeline. The caller may make tables there, or not.
create or replace function atoll.make_output(called text, definition text, t regclass) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    execute definition;
    perform atoll.give_output(called::regclass, t);
end $$;

create or replace function atoll.give_output(made regclass, t regclass) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform atoll.check_owner(t);
    perform atoll.check_owner(made);
    if (select relowner from pg_class where oid = made) <> (select relowner from pg_class where oid = t) then
        execute format('alter table %s owner to %s', made, (select relowner::regrole from pg_class where oid = t));
    end if;
end $$;

-- Applications can call it with whatever they like: nothing in it is believed but what only they will run.
create or replace function atoll.declare_pipeline(p atoll.pipeline, at_place text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    made constant regclass := p.output::regclass;
    said constant atoll.pipeline := atoll.plan_pipeline(p.name, p.source::regclass, p.input, p.model, p.kind, p.task, p.mode, p.batch_max, p.tries_max, p.options, p.rescores);
begin
    perform atoll.check_owner(made);
    p.source := said.source;
    p.output := atoll.qualified(made);
    p.definition := case when not exists (select from atoll.shared_table s where s.name = p.output) then atoll.definition_of(made) end;
    if exists (with recursive onward (tbl) as (select p.output union select x.output from onward o join atoll.pipeline x on x.source = o.tbl and x.name <> p.name)
               select from onward where tbl = p.source) then
        perform atoll.refuse('pipeline-circle', format('table %s would be scored from its own scores', p.source), hint => 'Write to a table that leads to no pipeline over the first.');
    end if;
    p.place := atoll.place_of(at_place);
    p.is_paused := false;
    p.declared := atoll.now();
    delete from atoll.pipeline x where x.name = p.name;
    insert into atoll.pipeline select p.*;
    perform atoll.install_pipelines(p.name);
    return p.name;
end $$;

-- What an application does to one: each with the check that it is the source's owner.
create or replace function atoll.own_pipeline(called text) returns atoll.pipeline
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    p atoll.pipeline;
begin
    select * into p from atoll.pipeline x where x.name = called;
    if p.name is null then
        perform atoll.refuse('pipeline-unknown', format('there is no pipeline "%s"', called), hint => 'See what there is: select name from atoll.pipelines');
    end if;
    if to_regclass(p.source) is not null then
        perform atoll.check_owner(p.source::regclass);
    end if;
    return p;
end $$;

create or replace function atoll.pause_pipeline(pipeline text, paused boolean default true) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform atoll.own_pipeline(pipeline);
    update atoll.pipeline x set is_paused = paused where x.name = pipeline and x.is_paused <> paused;
end $$;
comment on function atoll.pause_pipeline(text, boolean) is 'stops scoring, or with false goes on; rows wait meanwhile';

create or replace function atoll.drop_pipeline(pipeline text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform atoll.own_pipeline(pipeline);
    delete from atoll.pipeline x where x.name = pipeline;
    perform atoll.install_pipelines();
end $$;
comment on function atoll.drop_pipeline(text) is 'ends a pipeline on every node; what it wrote stays';

-- Rows that are there already are queued, in stretches, while others go on writing.
create or replace function atoll.backfill(pipeline text, after jsonb default '{}') returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    p atoll.pipeline := atoll.own_pipeline(pipeline);
begin
    if after <> '{}' and not after ?& array(select k.name from atoll.key_of(to_regclass(p.source)) k) then
        perform atoll.refuse('pipeline-option', 'after is not a key of the source table', hint => 'For example: {"id": 1000}');
    end if;
    update atoll.pipeline_state s set backfill_from = after where s.pipeline = backfill.pipeline;
    notify atoll_pipelines;
end $$;
comment on function atoll.backfill(text, jsonb) is 'scores the rows that this node has already';

create or replace function atoll.retry_pipeline(pipeline text) returns integer
language plpgsql security definer set search_path = pg_catalog as $$
declare
    n integer;
begin
    perform atoll.own_pipeline(pipeline);
    update atoll.pipeline_entry e set retry_at = '-infinity', tries = 0 where e.pipeline = retry_pipeline.pipeline and e.retry_at > '-infinity';
    get diagnostics n = row_count;
    notify atoll_pipelines;
    return n;
end $$;
comment on function atoll.retry_pipeline(text) is 'puts rows that failed on this node back into the queue';

create or replace view atoll.pipelines as
select p.name, p.source, p.model, p.output, p.mode, p.place, p.is_paused,
       case when s.problem is not null then 'failed' when p.is_paused then 'paused' when s.declared is null then 'elsewhere'
            when s.trouble is not null then 'waiting' when s.backfill_from is not null then 'backfill' else 'running' end as state,
       coalesce(e.waiting, 0) as waiting, extract(epoch from clock_timestamp() - e.oldest)::double precision as oldest_seconds, coalesce(e.dead, 0) as dead,
       coalesce(s.scored, 0) as scored, coalesce(s.per_second, 0) as per_second, s.model_version, coalesce(s.problem, s.trouble) as problem
  from atoll.pipeline p left join atoll.pipeline_state s on s.pipeline = p.name
  left join lateral (select count(*) filter (where retry_at < 'infinity') as waiting, min(queued_at) filter (where retry_at < 'infinity') as oldest,
                            count(*) filter (where retry_at = 'infinity') as dead from atoll.pipeline_entry e where e.pipeline = p.name) e on true;

create or replace view atoll.dead_letters as
select e.pipeline, e.key, e.tries, e.problem, e.queued_at from atoll.pipeline_entry e where e.retry_at = 'infinity';
