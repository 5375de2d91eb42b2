-- find: the rows of a table that fit words, a vector or both best
select rank, score, "table", key, "row", snippet, scope, keyword_rank, vector_distance
  from atoll.search(%(table)s, %(query)s, %(vector)s::double precision[], %(k)s, %(filter)s, %(keyword_weight)s, %(vector_weight)s);

-- work: what is to be done about indexes, one statement a row
select name, statement from atoll.search_work();

-- note: how a statement of that went
select atoll.note_search_work(%s, %s);

-- gently: settings for making an index beside everything else
select set_config('maintenance_work_mem', '256MB', false), set_config('max_parallel_maintenance_workers', '0', false), set_config('lock_timeout', '0', false);
