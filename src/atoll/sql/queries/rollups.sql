-- tend: carries out what is declared, and folds what was noted; whether anything is declared
select atoll.tend_rollups(%s), exists (select from atoll.rollup_rule) or exists (select from atoll.local_rollup);

-- rollups_seen: what is kept, and what stands in the way
select name, "table", bucket::text, by, measures, scope, state, counted_from, problem from atoll.rollups order by name;
