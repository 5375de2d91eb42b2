-- Setting and removing routes. A route says what may leave a node, so these are for the atoll's owner and not for
-- applications; what a route means is decided in the node's process, which takes no row at its word.

-- What a cascade needs to be one; the node's process reads the rest of it, and refuses requests where it makes no sense.
create or replace function atoll.check_cascade(called text, of_models jsonb, told jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    fields constant text[] := array['first', 'then', 'measure', 'threshold', 'samples', 'calibration', 'output', 'split_rows', 'patience_seconds', 'keep'];
    models text[] := array(select distinct n from jsonb_each(of_models) m, jsonb_array_elements_text(m.value) n);
    why    text;
begin
    if jsonb_typeof(told) <> 'object' then
        why := 'it is no object';
    elsif exists (select from jsonb_object_keys(told) k where k <> all (fields)) then
        why := format('it has no field "%s"', (select min(k) from jsonb_object_keys(told) k where k <> all (fields)));
    elsif not coalesce(told ->> 'first' = any (models), false) then
        why := 'the model that is asked first is none of the route''s';
    elsif cardinality(models) < 2 or (told ->> 'then' is not null and (told ->> 'then' <> all (models) or told ->> 'then' = told ->> 'first')) then
        why := 'there is no other model that is asked where the first is not sure';
    elsif not coalesce(told ->> 'measure' in ('mean_logprob', 'min_margin', 'entropy', 'agreement', 'score'), false) then
        why := 'it needs a measure: mean_logprob, min_margin, entropy or agreement, or score of tensors';
    elsif not coalesce(jsonb_typeof(told -> 'threshold') = 'number' and (told ->> 'threshold')::numeric between 0 and 1, false) then
        why := 'it needs a threshold from 0 to 1';
    end if;
    if why is not null then
        perform atoll.refuse('cascade-malformed', format('cannot use the cascade of route "%s": %s', called, why), hint => 'See: atoll route set --help, and atoll route calibrate');
    end if;
end $$;

drop function if exists atoll.set_route(text, jsonb, text[], double precision, double precision, double precision, jsonb, double precision, text[]);
drop function if exists atoll.set_route(text, jsonb, text[], double precision, double precision, double precision, jsonb, double precision, text[], text, jsonb);

create or replace function atoll.set_route(called text, of_models jsonb, preferred text[], deadline double precision, first_token double precision, cost double precision, with_labels jsonb, hedge_after double precision, with_keys text[], with_budget text, with_cascade jsonb, with_cache jsonb) returns text
language plpgsql set search_path = pg_catalog as $$
declare
    allowed constant integer := 256;
    kinds   constant text[] := array['here', 'peer', 'hub', 'cloud'];
    bad     text;
begin
    if coalesce(called, '') !~ '^[a-z0-9][a-z0-9._-]{0,62}$' then
        perform atoll.refuse('route-malformed', format('cannot name a route %s', coalesce(quote_literal(called), 'null')), hint => 'A name has up to 63 small letters, digits, dots, hyphens and underscores.');
    elsif coalesce(of_models, '{}') = '{}' then
        perform atoll.refuse('route-malformed', format('route "%s" has no model', called), hint => 'Name one: --model MODEL, or for some places only: --model cloud=MODEL');
    elsif coalesce(cardinality(preferred), 0) = 0 then
        perform atoll.refuse('route-malformed', format('route "%s" prefers no place', called), hint => 'For example: --prefer here,hub');
    end if;
    select k into bad from jsonb_object_keys(of_models) k where k <> all (kinds) limit 1;
    if bad is not null then
        perform atoll.refuse('route-malformed', format('there are no places of kind "%s"', bad), hint => 'They are here, peer, hub and cloud.');
    end if;
    select p into bad from unnest(preferred) p
     where p <> all (kinds) and p !~ '^cloud:.' and not exists (select from atoll.node n where n.name = p and n.revoked_at is null) limit 1;
    if bad is not null then
        perform atoll.refuse('route-malformed', format('there is no place "%s" to prefer', bad), hint => 'Say here, peer, hub or cloud, the name of a node, or cloud:MODEL.');
    end if;
    select k into bad from jsonb_object_keys(of_models) k
     where k = 'cloud' and not exists (select from unnest(preferred) p where p = 'cloud' or p like 'cloud:%') limit 1;
    if bad is not null then
        perform atoll.refuse('route-malformed', format('route "%s" has a model for the cloud, and does not lead there', called), hint => 'Say so: --prefer here,cloud');
    end if;
    select format('"%s"', l.key) into bad from jsonb_each_text(with_labels) l where l.value !~ '^(local|global|node:[0-9]{1,9}|region:[A-Za-z0-9_.-]{1,64})$' limit 1;
    if bad is not null then
        perform atoll.refuse('route-malformed', format('label %s has no scope that there is', bad), hint => 'A scope is local, global, node:NUMBER or region:NAME.');
    end if;
    select k into bad from unnest(with_keys) k where not exists (select from atoll.api_key a where a.name = k) limit 1;
    if bad is not null then
        perform atoll.refuse('key-unknown', format('there is no key "%s"', bad), hint => 'See: atoll key list');
    end if;
    if with_cascade is not null then
        perform atoll.check_cascade(called, of_models, with_cascade);
    end if;
    if not coalesce(deadline > 0 and deadline <= 3600, true) or not coalesce(first_token > 0 and first_token <= 3600, true)
       or not coalesce(hedge_after >= 0 and hedge_after <= 3600, true) or not coalesce(cost >= 0 and cost < 'infinity', true) then
        perform atoll.refuse('route-malformed', format('a number of route "%s" is out of bounds', called), hint => 'Seconds are up to 3,600; a cost is 0 or more.');
    elsif (select max(n) from (select count(*) as n from jsonb_each(with_labels) union all select cardinality(preferred) union all select jsonb_array_length(m.value) from jsonb_each(of_models) m) x) > 32 then
        perform atoll.refuse('route-malformed', format('route "%s" says too much', called), hint => 'It has 32 models, places and labels each at most.');
    elsif (select count(*) from atoll.route r where r.name <> called) >= allowed then
        perform atoll.refuse('route-malformed', format('there are %s routes already, as many as there may be', allowed), hint => 'Remove one: atoll route rm NAME');
    end if;
    if with_budget is not null and not exists (select from atoll.budget b where b.name = with_budget) then
        perform atoll.refuse('budget-unknown', format('there is no budget "%s"', with_budget), hint => 'Set it first: atoll budget set NAME AMOUNT');
    end if;
    insert into atoll.route (name, models, prefer, deadline_seconds, first_token_seconds, max_cost, labels, hedge_after_seconds, options)
    values (called, of_models, preferred, coalesce(deadline, 300), first_token, cost, with_labels, hedge_after,
            jsonb_strip_nulls(jsonb_build_object('keys', case when cardinality(with_keys) > 0 then with_keys end, 'budget', with_budget, 'cascade', with_cascade, 'cache', with_cache)))
    on conflict (name) do update set models = excluded.models, prefer = excluded.prefer, deadline_seconds = excluded.deadline_seconds,
       first_token_seconds = excluded.first_token_seconds, max_cost = excluded.max_cost, labels = excluded.labels,
       hedge_after_seconds = excluded.hedge_after_seconds, options = route.options - array['keys', 'budget', 'cascade', 'cache'] || excluded.options;
    return called;
end $$;

create or replace function atoll.drop_route(called text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    delete from atoll.route r where r.name = called;
    if not found then
        perform atoll.refuse('route-unknown', format('there is no route "%s"', called), hint => 'See: atoll route list');
    end if;
end $$;

-- What holds of a route where others are out of reach. Said after the rest of it, and replaced with it.
create or replace function atoll.set_route_reach(called text, expires double precision, unreachable text) returns text
language plpgsql set search_path = pg_catalog as $$
begin
    if not coalesce(expires between 300 and 315360000, true) then
        perform atoll.refuse('route-malformed', format('route "%s" cannot expire after so long', called), hint => 'A policy holds for 5 min to 10 years.');
    elsif coalesce(set_route_reach.unreachable, 'refuse') not in ('refuse', 'here', 'queue') then
        perform atoll.refuse('route-malformed', format('there is no way "%s" to answer what nobody can be reached for', set_route_reach.unreachable), hint => 'Say refuse, here or queue.');
    elsif set_route_reach.unreachable = 'here' and not exists (select from atoll.route r where r.name = called and r.models ? 'here') then
        perform atoll.refuse('route-malformed', format('route "%s" has no model that could answer here', called), hint => 'Name one: --model here=MODEL');
    end if;
    update atoll.route r set options = r.options - array['policy_expires_seconds', 'unreachable']
           || jsonb_strip_nulls(jsonb_build_object('policy_expires_seconds', expires, 'unreachable', nullif(set_route_reach.unreachable, 'refuse')))
     where r.name = called;
    return called;
end $$;
