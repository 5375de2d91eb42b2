-- Jobs: requests of models that are answered later, by whoever has the model and may see the request.
--
-- Who takes a job when is decided in router/jobs/turns.py from what open_jobs tells. Here is what has to hold whoever decides:
-- a job that has an outcome is not worked on, and neither is one on which another node has a lease that is known here.

-- This node's time, never behind the time at which a row was made.
create or replace function atoll.time_after(made timestamptz default '-infinity') returns timestamptz
language sql volatile set search_path = pg_catalog
return greatest(atoll.stamp_time(atoll.now()), made);

-- The nodes that are to have a model, and that a scope reaches. What no row speaks of came with the package; a route is on
-- every node, and each decides by it where to go.
create or replace function atoll.job_nodes(of_model text, of_scope text) returns integer[]
language sql stable security definer set search_path = pg_catalog
begin atomic
    select coalesce(array_agg(n.number order by n.number), '{}')
      from (select s.number, s.region from atoll.self s union all select p.number, p.region from atoll.peers() p) n
     where (of_scope in ('global', 'region:' || n.region, 'node:' || n.number) or of_scope = 'local' and n.number = atoll.me())
       and (exists (select from atoll.route r where r.name = of_model) or coalesce((select d.version is not null from atoll.desired_model d
                      where d.model = split_part(of_model, ':', 1) and d.place in ('global', 'region:' || n.region, 'node:' || n.number)
                      order by case when d.place like 'node:%' then 1 when d.place like 'region:%' then 2 else 3 end limit 1),
                    not exists (select from atoll.desired_model d where d.model = split_part(of_model, ':', 1))));
end;

create or replace function atoll.queue_job(of_model text, of_path text, of_body jsonb, of_scope text, for_caller text, within interval, tries integer, turn integer default 12) returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    made    constant timestamptz := atoll.time_after();
    most    constant integer := 10000;
    named   constant text := atoll.scope_of(of_scope, 'global');
    made_id bigint;
begin
    if jsonb_typeof(of_body) is distinct from 'object' then
        perform atoll.refuse('job-malformed', 'the body of a job is not an object', hint => 'For example: {"messages": [{"role": "user", "content": "Hello"}]}');
    elsif octet_length(of_body::text) > 1000000 then
        perform atoll.refuse('job-malformed', 'a job has 1 MB at most');
    elsif of_path is null or of_path not in ('/v1/chat/completions', '/v1/completions', '/v1/responses', '/v1/messages', '/v1/embeddings') then
        perform atoll.refuse('job-malformed', format('nothing is answered later on path "%s"', of_path), hint => 'For example: /v1/chat/completions');
    elsif within is null or not within between interval '1 second' and interval '30 days' then
        perform atoll.refuse('job-malformed', 'a job''s deadline is 1 second to 30 days away');
    elsif tries is null or not tries between 1 and 100 then
        perform atoll.refuse('job-malformed', 'a job is tried 1 to 100 times');
    elsif not atoll.admits(named) then
        perform atoll.refuse('job-scope', format('cannot keep a job of scope "%s": this node is not in it', named), 'Neither the job nor its result would be here.', state => 'AT003');
    elsif not exists (select from atoll.model m where m.name = of_model) and not exists (select from atoll.model_state s where s.model = of_model)
          and not exists (select from atoll.route r where r.name = of_model) then
        perform atoll.refuse('model-unknown', format('no node is known to have model "%s", and no route is called so', of_model), hint => 'See what there is: atoll model list');
    elsif (select count(*) from (select from atoll.job j where j.outcome is null limit most) o) >= most then
        perform atoll.refuse('jobs-many', format('%s jobs wait already', most), hint => 'Cancel what is not needed: atoll job cancel ID');
    end if;
    insert into atoll.job (id, model, path, body, scope, asked_by, caller, made_at, deadline, turn_seconds, tries_max)
    values (atoll.id(), of_model, of_path, of_body, named, atoll.me(), for_caller, made, made + within, turn, tries) returning id into made_id;
    return made_id;
end $$;

create or replace function atoll.ask_later(model text, body jsonb, scope text default 'global', path text default '/v1/chat/completions', deadline interval default '1 day', tries integer default 10) returns bigint
language sql volatile security definer set search_path = pg_catalog
return atoll.queue_job(ask_later.model, ask_later.path, ask_later.body, ask_later.scope, 'role app', ask_later.deadline, ask_later.tries);
comment on function atoll.ask_later(text, jsonb, text, text, interval, integer) is 'has a model answer later, on a node that has it and that the scope reaches; the id of the job';

-- What this node could work on, the oldest first, with what is known of the others' work on it.
create or replace function atoll.open_jobs(of_models text[], most integer) returns table (id bigint, model text, asked_by integer, made_at timestamptz, deadline timestamptz,
    turn_seconds integer, tries_max integer, nodes integer[], claims jsonb, present timestamptz)
language sql volatile set search_path = pg_catalog as $$
    select j.id, j.model, j.asked_by, j.made_at, j.deadline, j.turn_seconds, j.tries_max, n.nodes,
           (select coalesce(jsonb_agg(jsonb_build_array(c.node, extract(epoch from c.until), c.tries, extract(epoch from c.retry_at))), '[]') from atoll.job_claim c where c.job = j.id),
           atoll.time_after(j.made_at)
      from atoll.job j, lateral (select atoll.job_nodes(j.model, j.scope) as nodes offset 0) n
     where j.outcome is null and split_part(j.model, ':', 1) = any (of_models) and j.deadline > atoll.time_after()
       and atoll.me() = any (n.nodes)
       and not exists (select from atoll.job_claim c where c.job = j.id
                          and case when c.node = atoll.me() then c.retry_at > atoll.time_after() else c.until > atoll.time_after() end)
       and j.tries_max > (select coalesce(sum(c.tries), 0) from atoll.job_claim c where c.job = j.id)
     order by j.made_at limit most
$$;

-- Takes a lease on a job, or renews it. No row: somebody else has one, or there is nothing left to do.
create or replace function atoll.claim_job(of_job bigint) returns table (path text, body jsonb, scope text, caller text)
language plpgsql volatile set search_path = pg_catalog as $$
#variable_conflict use_column
declare
    j   atoll.job;
    now timestamptz;
begin
    select * into j from atoll.job o where o.id = of_job and o.outcome is null for no key update;
    now := atoll.time_after(j.made_at);
    if j.id is null or j.deadline <= now or exists (select from atoll.job_claim c where c.job = j.id and c.node <> atoll.me() and c.until > now) then
        return;
    end if;
    insert into atoll.job_claim (job, node, scope, until) values (j.id, atoll.me(), j.scope, now + make_interval(secs => j.turn_seconds))
    on conflict (job, node) do update set until = excluded.until;
    return query select j.path, j.body, j.scope, j.caller;
end $$;

-- Says what came of it, unless that has been said; whoever reads it here finds the same from now on, or an earlier one.
create or replace function atoll.end_job(of_job bigint, as_state text, more jsonb) returns boolean
language plpgsql volatile set search_path = pg_catalog as $$
declare
    is_told boolean;
begin
    update atoll.job j set outcome = more || jsonb_build_object('state', as_state, 'node', atoll.me(), 'at', atoll.time_after(j.made_at))
     where j.id = of_job and j.outcome is null;
    is_told := found;
    update atoll.job_claim c set until = null where c.job = of_job and c.node = atoll.me() and c.until is not null;
    return is_told;
end $$;

create or replace function atoll.fail_job(of_job bigint, counts boolean, pause_seconds double precision, why text) returns void
language sql volatile set search_path = pg_catalog as $$
    update atoll.job_claim c set until = null, tries = c.tries + counts::integer, problem = left(why, 2000),
           retry_at = atoll.time_after() + make_interval(secs => pause_seconds)
     where c.job = of_job and c.node = atoll.me()
$$;

-- Nobody works on it any more, on any node that hears of it.
create or replace function atoll.cancel_job(job bigint) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog as $$
begin
    perform atoll.known_job(cancel_job.job);
    update atoll.job j set outcome = jsonb_build_object('state', 'cancelled', 'node', atoll.me(), 'at', atoll.time_after(j.made_at)) where j.id = cancel_job.job and j.outcome is null;
    return found;
end $$;
comment on function atoll.cancel_job(bigint) is 'ends a job that has no result yet; whether it had none';

create or replace function atoll.known_job(of_job bigint) returns void
language plpgsql stable security definer set search_path = pg_catalog as $$
begin
    if not exists (select from atoll.job j where j.id = of_job) then
        perform atoll.refuse('job-unknown', format('there is no job %s on this node', of_job), hint => 'See what there is: atoll job list');
    end if;
end $$;

-- A job that was given up is tried so many times more, for as long again as it had.
create or replace function atoll.retry_job(job bigint) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog as $$
declare
    tried integer;
begin
    perform atoll.known_job(retry_job.job);
    select coalesce(sum(c.tries), 0) into tried from atoll.job_claim c where c.job = retry_job.job;
    update atoll.job j set tries_max = tried + least(j.tries_max, 10), deadline = atoll.time_after() + (j.deadline - j.made_at)
     where j.id = retry_job.job and j.outcome is null and (tried >= j.tries_max or j.deadline <= atoll.time_after());
    return found;
end $$;
comment on function atoll.retry_job(bigint) is 'has a job that was given up tried again; whether it was given up';

create or replace view atoll.jobs as
select j.id, j.model,
       case when j.outcome is not null then j.outcome->>'state' when c.tries >= j.tries_max then 'dead' when j.deadline <= p.present then 'late'
            when c.until > p.present then 'working' else 'waiting' end as state,
       j.scope, coalesce(a.name, j.asked_by::text) as asked_by, coalesce(d.name, coalesce(j.outcome->>'node', c.node::text)) as done_by,
       coalesce(c.tries, 0) as tries, coalesce(j.outcome->>'problem', c.problem) as problem, j.made_at, j.deadline, (j.outcome->>'at')::timestamptz as ended_at,
       j.path, j.body, j.outcome->'result' as result, j.caller
  from atoll.job j cross join lateral (select atoll.time_after(j.made_at) as present offset 0) p
  left join lateral (select sum(x.tries) as tries, max(x.until) as until, (array_agg(x.node order by x.until desc nulls last))[1] as node,
                            (array_agg(x.problem order by x.retry_at desc nulls last))[1] as problem from atoll.job_claim x where x.job = j.id) c on true
  left join atoll.node a on a.number = j.asked_by
  left join atoll.node d on d.number = coalesce((j.outcome->>'node')::integer, c.node);

-- A day after a job has ended or its deadline has passed, whoever took it in forgets it; for one that has left, its neighbours do.
create or replace function atoll.tidy_jobs(most integer) returns integer
language plpgsql volatile set search_path = pg_catalog as $$
declare
    n integer;
begin
    with old as (
        select j.id from atoll.job j
         where coalesce((j.outcome->>'at')::timestamptz, j.deadline) < atoll.time_after() - case when j.asked_by = atoll.me() then interval '1 day' else interval '2 days' end
         order by j.id limit most
    ), gone as (
        delete from atoll.job_claim c using old where c.job = old.id
    )
    delete from atoll.job j using old where j.id = old.id;
    get diagnostics n = row_count;
    return n;
end $$;

-- Whoever waits for a job is woken when it is written here, by whomever.
create or replace function atoll.wake_for_job() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform pg_notify('atoll_jobs', new.id::text);
    return null;
end $$;

do $$ begin
    if not exists (select from pg_trigger where tgrelid = 'atoll.job'::regclass and tgname = 'wake') then
        create trigger wake after insert or update on atoll.job for each row execute function atoll.wake_for_job();
        alter table atoll.job enable always trigger wake;
    end if;
end $$;
