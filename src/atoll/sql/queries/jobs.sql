-- queue: a new job
select atoll.queue_job(%(model)s, %(path)s, %(body)s, %(scope)s, %(caller)s, make_interval(secs => %(seconds)s), %(tries)s) as id;

-- one: a job, as it is told
select id, model, state, scope, asked_by, done_by, tries, problem, made_at, deadline, ended_at, result, caller from atoll.jobs where id = %s;

-- open: what this node could work on
select atoll.me(), o.id, o.model, o.asked_by, extract(epoch from o.made_at)::float8, extract(epoch from o.deadline)::float8, o.turn_seconds, o.tries_max,
       o.nodes, o.claims, extract(epoch from o.present)::float8 from atoll.open_jobs(%s, %s) o;

-- claim: a lease on a job, or a longer one
select path, body, scope, caller from atoll.claim_job(%s);

-- finish: what came of a job
select atoll.end_job(%s, %s, %s);

-- fail: a try that failed
select atoll.fail_job(%s, %s, %s, %s);

-- tidy: forgets jobs of long ago
select atoll.tidy_jobs(1000);

-- counts: how many there are of each state
select state, count(*) from atoll.jobs group by state;

-- listing: the latest jobs
select id, model, state, scope, asked_by, done_by, tries, problem, made_at, deadline, ended_at from atoll.jobs
 where %(state)s::text is null or state = %(state)s order by id desc limit %(most)s;

-- show: all of a job
select id, model, state, scope, asked_by, done_by, tries, problem, made_at, deadline, ended_at, path, body, result, caller from atoll.jobs where id = %s;

-- cancel: a job is not worked on any more
select atoll.cancel_job(%s) as is_done;

-- retry: a job that was given up is tried again
select atoll.retry_job(%s) as is_done;
