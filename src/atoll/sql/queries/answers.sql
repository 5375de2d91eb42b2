-- newest: what is held in memory first
select key, whole, around, question, vector, encoder, route, model, version, variant, scope, made_at, until, events, array(select jsonb_object_keys(read))
  from atoll.answer where until > extract(epoch from clock_timestamp()) order by made_at desc limit %s;

-- some: by their keys
select key, whole, around, question, vector, encoder, route, model, version, variant, scope, made_at, until, events, array(select jsonb_object_keys(read))
  from atoll.answer where key = any (%s);

-- keep: one more
select atoll.keep_answer(%(key)s, %(whole)s, %(around)s, %(question)s, %(vector)s, %(encoder)s, %(route)s, %(model)s, %(version)s, %(variant)s, %(scope)s,
                         %(made_at)s, %(until)s, %(events)s, %(tables)s);

-- tidy: forget what is not to be given again
select atoll.tidy_answers(%s, %s);

-- listing: what there is, by route and model
select a.route, a.model, count(*) as answers, count(*) filter (where a.node = atoll.me()) as made_here, count(a.vector) as alike, sum(octet_length(a.events))::bigint as bytes,
       extract(epoch from clock_timestamp()) - max(a.made_at) as newest_seconds, array_agg(distinct a.scope order by a.scope) as scopes
  from atoll.answer a group by a.route, a.model order by a.route, a.model;

-- clear: forget all answers, or those of a route
delete from atoll.answer a where a.route = coalesce(%s::text, a.route) returning a.key;
