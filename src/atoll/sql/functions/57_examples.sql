-- Examples that cascades leave behind. What becomes one is decided in router/cascades/examples.py.

create or replace function atoll.keep_example(of_route text, on_path text, with_asked jsonb, of_first text, said_first jsonb, of_then text, said_then jsonb, by_measure text,
    how_sure double precision, of_scope text) returns boolean
language plpgsql set search_path = pg_catalog as $$
begin
    if not atoll.admits(atoll.scope_of(of_scope, 'global')) then
        return false;
    end if;
    insert into atoll.example (id, route, path, asked, first, first_said, then_model, then_said, measure, confidence, scope, node, made_at)
    values (atoll.id(), of_route, on_path, with_asked, of_first, said_first, of_then, said_then, by_measure, how_sure, of_scope, atoll.me(), atoll.time_after());
    return true;
end $$;

-- What is too old, or more than is kept of a route; each node sees to what it has made itself, and a day later others do.
create or replace function atoll.tidy_examples(most integer, kept integer) returns integer
language plpgsql set search_path = pg_catalog as $$
declare
    n integer;
begin
    with old as (
        select e.id from atoll.example e
         where e.made_at < atoll.time_after() - interval '90 days' - case when e.node = atoll.me() then interval '0' else interval '1 day' end
            or e.node = atoll.me() and e.made_at <= (select x.made_at from atoll.example x where x.route = e.route order by x.made_at desc offset kept limit 1)
         limit most
    )
    delete from atoll.example e using old where e.id = old.id;
    get diagnostics n = row_count;
    return n;
end $$;

-- Ready to be learnt from: the last thing that was said to the model, and what the larger one answered.
create or replace view atoll.examples as
select e.id, e.route, e.first, e.then_model, e.confidence, e.measure, e.scope, n.name as node, e.made_at,
       case when e.path = '/v1/completions' then e.asked->>'prompt' else m.said end as prompt,
       case when jsonb_typeof(e.first_said) = 'string' then e.first_said #>> '{}' end as first_answer,
       case when jsonb_typeof(e.then_said) = 'string' then e.then_said #>> '{}' end as answer,
       e.then_said is not null and e.first_said is not null and e.first_said <> e.then_said as differs, e.asked, e.first_said, e.then_said
  from atoll.example e left join atoll.node n on n.number = e.node
  left join lateral (select case jsonb_typeof(x->'content') when 'string' then x->>'content'
                                 else (select string_agg(p->>'text', '') from jsonb_path_query(x, '$.content[*]') p) end as said
                       from jsonb_path_query(coalesce(e.asked->'messages', e.asked->'input'), '$[*] ? (@.role == "user")') with ordinality u (x, o) order by o desc limit 1) m on true;
