-- Carrying pipelines out on this node: triggers queue the keys of rows that were written, and the worker takes them.
--
-- The worker reads what is due, asks the model with nothing held, and then takes exactly those entries and writes the
-- output in one transaction. So a crash repeats work and doubles nothing. A row that was written again meanwhile has a
-- new entry.
--
-- Waking: NOTIFY takes a lock that all notifying transactions share, until they have committed. So a writer notifies
-- only a worker that sleeps, and a worker that sleeps holds its advisory lock; whoever gets a share of it knows that
-- the worker is awake and will look again, because it cannot fall asleep before this transaction has ended.

create or replace function atoll.queue_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{function}}() returns trigger
language plpgsql security definer set search_path = pg_catalog as $body$
begin
    if {{skips}} then
        return null;
    end if;
    insert into atoll.pipeline_entry (pipeline, key) select {{name}}, jsonb_build_object({{key}}) from new_rows r;
    if found and not pg_try_advisory_xact_lock_shared({{class}}, {{number}}) then
        perform pg_notify({{wake}}, '');
    end if;
    return null;
end $body$;
$template$ $sql$;

-- $1 at most so many, $2 of these entries only
create or replace function atoll.read_statement(p atoll.pipeline) returns text
language sql stable set search_path = pg_catalog
return atoll.render($template$
select e.id, e.tries, e.key::text, m.there is not null as is_there, m.input
  from atoll.due_entries({{name}}, $1, $2) e left join lateral (select true as there, ({{input}}
       ) as input from {{source}} r where {{is_row}}) m on true
 order by e.id
$template$, jsonb_build_object('name', quote_literal(p.name), 'source', p.source, 'input', p.input, 'is_row', atoll.is_of_key(to_regclass(p.source), 'e.key')));

-- $1 the entries that were read, $2 those with a result, $3 the results, $4 and $5 the model and its version
create or replace function atoll.write_statement(p atoll.pipeline) returns text
language sql stable set search_path = pg_catalog
return (
    with k as (
        select string_agg(quote_ident(name), ', ' order by place) as keys, array_agg(name) as key_names, array_agg(name) <@ p.names as is_upsert from atoll.key_of(to_regclass(p.output))
    ), c as (
        select string_agg(quote_ident(n), ', ' order by i) as cols, coalesce('do update set ' || string_agg(format('%1$I = excluded.%1$I', n), ', ' order by i) filter (where n <> all (k.key_names)), 'do nothing') as act
          from k, unnest(p.names) with ordinality u (n, i)
    )
    select atoll.render($template$
with done as materialized (
    select t.id, t.key from atoll.take_entries({{name}}, $1::bigint[]) t
), made as materialized (
    select d.id as atoll_id, d.key as atoll_key, x.told::jsonb->'label' as atoll_label, m.*
      from done d join unnest($2::bigint[], $3::text[]) x (id, told) on x.id = d.id
     cross join lateral (select {{columns}}
          from {{source}} r, (select x.told::jsonb as result, $4::text as model, $5::text as model_version) s where {{is_row}} and ({{condition}}
          )) m ({{cols}})
), written as (
    insert into {{output}} ({{cols}}) {{rows}} returning 1
)
select (select count(*) from done), (select count(*) from written),
       (select count(pg_notify({{channel}}, case when octet_length(told) < 7900 then told else '{}' end)) from (select jsonb_build_object('key', atoll_key, 'label', atoll_label)::text as told from made order by atoll_id) n)
$template$, jsonb_build_object('name', quote_literal(p.name), 'channel', quote_literal('atoll_pipeline_' || p.name), 'source', p.source, 'output', p.output, 'columns', p.columns, 'condition', p.condition,
        'is_row', atoll.is_of_key(to_regclass(p.source), 'd.key'), 'cols', c.cols,
        'rows', case when k.is_upsert then format('select distinct on (%1$s) %2$s from made order by %1$s, atoll_id desc on conflict (%1$s) %3$s', k.keys, c.cols, c.act)
                     else format('select %s from made order by atoll_id', c.cols) end))
      from k, c);

-- What atoll.pipeline says is compared with what is there. Where it cannot be carried out, the reason is kept; a caller
-- who has just declared it is told instead.
create or replace function atoll.install_pipelines(declared_now text default null) returns void
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '5s' as $$
declare
    d      record;
    reason text;
begin
    perform pg_advisory_xact_lock(x'61746f6c'::int, 4);
    for d in select s.pipeline as name, s.relid from atoll.pipeline_state s where not exists (select from atoll.pipeline p where p.name = s.pipeline and p.place in ('global', atoll.here(), atoll.here_only())) loop
        perform atoll.uninstall_pipeline(d.name, d.relid);
        delete from atoll.pipeline_entry e where e.pipeline = d.name;
        delete from atoll.pipeline_state s where s.pipeline = d.name;
    end loop;
    for d in select p, s.relid from atoll.pipeline p left join atoll.pipeline_state s on s.pipeline = p.name
              where p.place in ('global', atoll.here(), atoll.here_only())
                and (s.declared is distinct from p.declared or s.problem is not null or s.relid is distinct from to_regclass(p.source)::oid
                     or (select count(*) from pg_trigger g where g.tgrelid = s.relid and g.tgname like 'atoll\_pipeline\_' || (p).name || '\_%' and g.tgenabled <> 'D') < 2)
              order by p.name
    loop
        begin
            perform atoll.uninstall_pipeline((d.p).name, d.relid);
            perform atoll.install_pipeline(d.p);
        exception when others then
            if (d.p).name = declared_now then
                raise;
            end if;
            get stacked diagnostics reason = message_text;
            insert into atoll.pipeline_state (pipeline, problem) values ((d.p).name, reason)
            on conflict (pipeline) do update set problem = excluded.problem, declared = null where atoll.pipeline_state.problem is distinct from excluded.problem;
        end;
    end loop;
end $$;

create or replace function atoll.install_pipeline(p atoll.pipeline) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    t     constant regclass := to_regclass(p.source);
    of_it integer;
    part  text;
    fn    constant text := format('atoll_side.%I', 'pipeline__' || p.name);
begin
    if t is null then
        perform atoll.refuse('table-missing', format('table %s does not exist', p.source));
    elsif to_regclass(p.output) is null then
        if p.definition is null then
            perform atoll.refuse('table-missing', format('table %s does not exist', p.output));
        end if;
        perform atoll.make_table(p.output, p.definition);
    end if;
    insert into atoll.pipeline_state (pipeline, declared, relid, read_sql, write_sql)
    values (p.name, p.declared, t, atoll.read_statement(p), atoll.write_statement(p))
    on conflict (pipeline) do update set declared = excluded.declared, relid = excluded.relid, read_sql = excluded.read_sql, write_sql = excluded.write_sql, problem = null
    returning number into of_it;
    execute atoll.render(atoll.queue_template(), jsonb_build_object('function', fn, 'name', quote_literal(p.name), 'class', x'61746f70'::int, 'number', of_it, 'wake', quote_literal('atoll_queued_' || p.name),
        -- What the node writes by itself while it merges is not this node's own.
        'skips', case p.mode when 'own' then 'current_setting(''atoll.quiet'', true) = ''on''' else 'false' end,
        'key', (select string_agg(format('%L, r.%I', name, name), ', ' order by place) from atoll.key_of(t))));
    foreach part in array array['insert', 'update'] loop
        execute format('create trigger %I after %s on %s referencing new table as new_rows for each statement execute function %s()', 'atoll_pipeline_' || p.name || '_' || part, part, p.source, fn);
        execute format('alter table %s enable %s trigger %I', p.source, case p.mode when 'arriving' then 'replica' when 'all' then 'always' else '' end, 'atoll_pipeline_' || p.name || '_' || part);
    end loop;
end $$;

create or replace function atoll.uninstall_pipeline(called text, t oid) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    part text;
begin
    foreach part in array array['insert', 'update'] loop
        if exists (select from pg_trigger where tgrelid = t and tgname = 'atoll_pipeline_' || called || '_' || part) then
            execute format('drop trigger %I on %s', 'atoll_pipeline_' || called || '_' || part, t::regclass);
        end if;
    end loop;
    execute format('drop function if exists atoll_side.%I()', 'pipeline__' || called);
end $$;

-- For the worker, which comes as the application's role.

create or replace function atoll.due_entries(called text, most integer, chosen bigint[] default null) returns table (id bigint, tries integer, key jsonb)
language sql stable security definer set search_path = pg_catalog rows 100
begin atomic
    select d.id, d.tries, d.key from (
        (select e.id, e.tries, e.key from atoll.pipeline_entry e where e.pipeline = called and e.retry_at = '-infinity' and chosen is null order by e.id limit most)
        union all
        (select e.id, e.tries, e.key from atoll.pipeline_entry e where e.pipeline = called and e.retry_at > '-infinity' and e.retry_at <= now() and chosen is null order by e.retry_at limit most)
        union all
        select e.id, e.tries, e.key from atoll.pipeline_entry e where e.pipeline = called and e.id = any (chosen)) d
     order by d.id limit most;
end;

-- A dead letter goes when its row was written again and is scored, or dies again.
create or replace function atoll.take_entries(called text, ids bigint[]) returns table (id bigint, key jsonb)
language sql volatile security definer set search_path = pg_catalog rows 100
begin atomic
    with taken as (
        delete from atoll.pipeline_entry e where e.pipeline = called and e.id = any (ids) returning e.id, e.key
    ), outlived as (
        delete from atoll.pipeline_entry e using taken t where e.retry_at = 'infinity' and e.key = t.key and e.pipeline = called and e.id <> all (ids)
    )
    select t.id, t.key from taken t;
end;

-- A row failed. What the row is to blame for counts; after so many tries it is a dead letter.
create or replace function atoll.fail_entries(called text, ids bigint[], why text, counts boolean) returns void
language sql volatile security definer set search_path = pg_catalog
begin atomic
    with failed as (
        select e.id, e.key, counts and e.tries + 1 >= p.tries_max as is_dead from atoll.pipeline_entry e join atoll.pipeline p on p.name = e.pipeline
         where e.pipeline = called and e.id = any (ids)
    ), outlived as (
        delete from atoll.pipeline_entry e using failed f where f.is_dead and e.retry_at = 'infinity' and e.key = f.key and e.pipeline = called and e.id <> all (ids)
    )
    update atoll.pipeline_entry e
       set tries = e.tries + counts::integer, problem = left(why, 2000),
           retry_at = case when f.is_dead then 'infinity' when not counts then now() + interval '1 minute' else now() + interval '1 second' * 2 ^ least(e.tries, 8) end
      from failed f where e.pipeline = called and e.id = f.id;
end;

-- Queues the next stretch of rows that are there already; false once there are no more.
create or replace function atoll.backfill_step(called text, most integer) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
declare
    s    atoll.pipeline_state;
    last jsonb;
    cols text;
begin
    select * into s from atoll.pipeline_state x where x.pipeline = called for no key update;
    if s.backfill_from is null or s.relid is null then
        return false;
    end if;
    select string_agg(format('r.%I', name), ', ' order by place) into cols from atoll.key_of(s.relid);
    execute format($f$
        with stretch as (select jsonb_build_object(%s) as key, row_number() over (order by %s) as i from %s r where %s order by %s limit $2),
             queued as (insert into atoll.pipeline_entry (pipeline, key) select $3, key from stretch order by i)
        select key from stretch order by i desc limit 1 $f$,
        (select string_agg(format('%L, r.%I', name, name), ', ' order by place) from atoll.key_of(s.relid)), cols, s.relid::regclass,
        case when s.backfill_from = '{}' then 'true' else (select format('(%s) > (%s)', cols, string_agg(format('($1->>%L)::%s', name, type), ', ' order by place)) from atoll.key_of(s.relid)) end, cols)
      into last using s.backfill_from, most, called;
    update atoll.pipeline_state x set backfill_from = last where x.pipeline = called;
    return last is not null;
end $$;

-- Of several entries for one row the last is enough. So the queue of a worker that cannot go on holds no more than the
-- table has rows.
create or replace function atoll.tidy_entries(called text) returns bigint
language sql volatile security definer set search_path = pg_catalog
begin atomic
    with gone as (
        delete from atoll.pipeline_entry e using (select key, max(id) as last from atoll.pipeline_entry where pipeline = called group by key having count(*) > 1) l
         where e.pipeline = called and e.key = l.key and e.id < l.last and e.tries = 0 returning 1)
    select count(*) from gone;
end;

-- What the worker says of itself. Where another version of the model scores now, and the pipeline is to follow it, the
-- rows that are there are queued again.
create or replace function atoll.say_pipeline(called text, more bigint, rate real, why text, version text) returns void
language sql volatile security definer set search_path = pg_catalog
begin atomic
    update atoll.pipeline_state s
       set scored = s.scored + more, per_second = rate, trouble = why, said_at = clock_timestamp(), model_version = coalesce(version, s.model_version),
           backfill_from = case when version <> s.model_version and (select p.rescores from atoll.pipeline p where p.name = called) then '{}' else s.backfill_from end
     where s.pipeline = called;
end;
