-- find: the rows of a table that fit words, a vector or both best
select rank, score, "table", key, "row", snippet, scope, keyword_rank, vector_distance
  from atoll.search(%(table)s, %(query)s, %(vector)s::double precision[], %(k)s::integer, %(filter)s, %(keyword_weight)s, %(vector_weight)s, %(version)s);

-- model: which model makes the vectors of queries for a table
select model, version, is_behind from atoll.query_model(%s);

-- tables: those that applications can search
select s."table" from atoll.searches s
 where to_regclass(s."table") is not null
   and not exists (select from pg_roles where rolname = 'app' and not has_any_column_privilege(oid, to_regclass(s."table")::oid, 'select'))
 order by 1;

-- embed: keep what a column means as vectors
select atoll.embed_column(%(table)s, %(column)s, %(model)s, %(dimensions)s, %(kind)s, %(place)s, %(into)s) as output;

-- work: what is to be done about indexes, one statement a row
select name, statement from atoll.search_work();

-- note: how a statement of that went
select atoll.note_search_work(%s, %s);

-- gently: settings for making an index beside everything else
select set_config('maintenance_work_mem', '256MB', false), set_config('max_parallel_maintenance_workers', '0', false), set_config('lock_timeout', '0', false);

-- declared: whether there is anything to be searched
select from atoll.search_rule limit 1;
