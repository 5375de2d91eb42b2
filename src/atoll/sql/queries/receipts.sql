-- tables: what is shared here, with what stands in the way
select name, kind, merge, problem from atoll.local_table order by name;

-- buckets: a table's hashes, a bucket each
select bucket, row_count, hash from atoll.receipt_buckets(%s, %s, %s);

-- rows: a hash for each row of some buckets
select key, hash from atoll.receipt_rows(%s, %s, %s, %s, %s);

-- circles: for each scope of a table's rows here, who may have them too
select scope, members from atoll.circles(%s);
