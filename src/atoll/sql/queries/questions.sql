-- members: every node with its round trip, this one at no distance
select n.number, n.name, n.region, n.tier, n.number = atoll.me() as is_me,
       case when l.state = 'up' then l.rtt_ms / 1000 end as distance
  from atoll.node n left join atoll.link_state l on l.peer = n.number
 where n.revoked_at is null
 order by n.number;

-- relations: what the names in a question are, views with everything that they read
with recursive named as (
    select t.name as asked, to_regclass(t.name)::oid as relid from unnest(%s::text[]) t (name)
), reads as (
    select asked, relid from named where relid is not null
    union
    select r.asked, d.refobjid
      from reads r
      join pg_rewrite w on w.ev_class = r.relid
      join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass
       and d.refobjid <> r.relid
), tables as (
    select r.asked, c.oid, coalesce(pg_partition_root(c.oid), c.oid) as root
      from reads r join pg_class c on c.oid = r.relid and c.relkind in ('r', 'p', 'f')
)
select n.asked,
       (select array_agg(a.attname::text order by a.attnum) from pg_attribute a
         where a.attrelid = n.relid and a.attnum > 0 and not a.attisdropped) as columns,
       (select json_agg(json_build_object('scope', s.scope, 'scope_column', to_jsonb(s) ->> 'scope_column'))
          from tables t
          left join atoll.local_table l on l.relid = t.root
          left join atoll.shared_table s on s.name = l.name
         where t.asked = n.asked) as scopes
  from named n;

-- aggregates: which of these functions add rows up
select distinct proname::text from pg_proc where prokind = 'a' and proname::text = any (%s::text[]);

-- touched: what a session has read that may not go to a node that would see the answer
select coalesce(s.name, k.relation::regclass::text),
       case when to_jsonb(s) ->> 'scope_column' is null then 'Its scope is ' || coalesce(s.scope, 'node')
            else format('Where a row may go is in its column %%I', to_jsonb(s) ->> 'scope_column') end,
       n.name
  from pg_locks k
  join pg_class c on c.oid = k.relation
  left join atoll.local_table l on l.relid = k.relation or l.relid = pg_partition_root(k.relation)
  left join atoll.shared_table s on s.name = l.name
  join atoll.node n on n.number = any (%(path)s::integer[]) and n.number <> atoll.me()
 where k.pid = %(pid)s and k.locktype = 'relation'
   and (case when s.name is null
             then c.relnamespace = 'atoll'::regnamespace and c.relname in ('change', 'conflict', 'parked', 'conflicts')
                  or c.oid in ('pg_statistic'::regclass, 'pg_statistic_ext_data'::regclass)
             else s.scope <> 'global' or to_jsonb(s) ->> 'scope_column' is not null end)
   and not (s.scope is not distinct from 'region' and to_jsonb(s) ->> 'scope_column' is null
            and n.region = (select o.region from atoll.node o where o.number = atoll.me()))
 order by 1, n.number
 limit 1;
