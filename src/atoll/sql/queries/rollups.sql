-- tend: carries out what is declared, and folds what was noted
select atoll.tend_rollups(%s);

-- rollups_seen: what is kept, and what stands in the way
select name, "table", bucket::text, by, measures, scope, state, counted_from, problem from atoll.rollups order by name;
