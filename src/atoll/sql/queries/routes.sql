-- all: every route, and who this node is
select atoll.me() as me, name, models, prefer, deadline_seconds, first_token_seconds, max_cost, labels, hedge_after_seconds, options
  from atoll.route order by name;

-- set: what a route is from now on, and which of its models nobody has added
select atoll.set_route_reach(atoll.set_route(%(name)s, %(models)s, %(prefer)s, %(deadline_seconds)s, %(first_token_seconds)s, %(max_cost)s, %(labels)s,
                       %(hedge_after_seconds)s, %(keys)s, %(budget)s, %(cascade)s, %(cache)s),
                             %(policy_expires_seconds)s, %(unreachable)s) as name,
       array(select distinct n from jsonb_each(%(models)s) m, jsonb_array_elements_text(m.value) n
              where not exists (select from atoll.model k where k.name = n)) as unknown;

-- heard: how long ago another node was heard, if there is one
select extract(epoch from now() - coalesce((select max(h.heard_at) from atoll.heard h where h.origin <> atoll.me() and h.scope = 'global'),
                                           (select coalesce(s.seeded_at, now()) from atoll.self s)))::float8
 where exists (select from atoll.peers());

-- remove: a route
select atoll.drop_route(%s);
