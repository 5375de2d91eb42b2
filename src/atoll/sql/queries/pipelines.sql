-- add: a pipeline, as a command declares it
select atoll.add_pipeline(%(name)s, %(source)s, %(input)s, %(model)s, %(output)s, %(kind)s, %(task)s, %(columns)s, %(condition)s, %(mode)s,
                          %(place)s, %(scope)s, %(batch)s, %(tries)s, %(options)s, %(rescore)s) as name;

-- listing: all pipelines, and how they are here
select * from atoll.pipelines order by name;

-- dead: rows that were given up, the latest first
select pipeline, key, tries, problem, queued_at from atoll.dead_letters where pipeline = %s order by queued_at desc limit 100;

-- pause: or go on
select atoll.pause_pipeline(%s, %s);

-- backfill: the rows that are here already
select atoll.backfill(%s);

-- retry: rows that failed
select atoll.retry_pipeline(%s) as rows;

-- drop: a pipeline, on every node
select atoll.drop_pipeline(%s);

-- install: carry out what is declared
select atoll.install_pipelines();

-- embed: carry out which columns are embedded
select atoll.install_embeddings();

-- wanted: the pipelines that run here
select p.name, p.declared, p.kind, p.task, p.model, p.batch_max, p.options, s.number, s.read_sql, s.write_sql
  from atoll.pipeline p join atoll.pipeline_state s on s.pipeline = p.name and s.declared = p.declared and s.problem is null
 where not p.is_paused order by p.name;

-- tidy: queues that nobody empties
select p.name, atoll.tidy_entries(p.name) from atoll.pipelines p where p.waiting > 10000 and p.state <> 'running';

-- due: entries that can be read now
select d.id from atoll.due_entries($1, $2) d;

-- sleep: whether the worker may; not while somebody who saw it awake has not committed
select pg_try_advisory_lock(x'61746f70'::int, $1);

-- wake: the worker is awake
select pg_advisory_unlock(x'61746f70'::int, $1);

-- fail: rows that could not be scored
select atoll.fail_entries($1, $2, $3, $4);

-- step: the next stretch of a backfill
select atoll.backfill_step($1, $2);

-- say: how the worker is
select atoll.say_pipeline($1, $2::bigint, $3::real, $4, $5);
