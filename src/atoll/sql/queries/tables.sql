-- share: declares a table shared
select atoll.share(%s, %s::jsonb, %s, %s, %s);

-- unshare: ends that
select atoll.unshare(%s);

-- tables_seen: what is shared, estimated rows, and what is the matter
select l.name, l.kind, l.merge, l.scope, l.scope_column, l.problem,
       (select greatest(sum(c.reltuples), 0)::bigint from pg_class c
         where c.oid in (select relid from pg_partition_tree(l.relid) where isleaf union select l.relid)) as rows,
       (select count(*) from atoll.conflict c where c.tbl = l.name) as conflicts,
       (select count(*) from atoll.parked p where p.tbl = l.name) as parked
  from atoll.local_table l
 where l.name not like 'atoll.%%'
 order by l.name;

-- migrate: runs DDL, and says what the other nodes will do
select tbl as "table", step from atoll.migrate(%s, %s);
