-- conflicts_seen: the latest conflicts
select id, seen_at, "table", key, "column", kind, lost_value, lost_at, lost_by, won_value, won_at, won_by, why, reverted_at
  from atoll.conflicts
 where %(table)s::text is null or "table" = %(table)s
 order by id desc limit %(most)s;

-- revert: writes a loser back
select atoll.revert(%s);

-- parked_seen: changes that wait, and why
select p.origin, coalesce(n.name, p.origin::text) as node, p.seq, p.tbl as "table", p.code, p.reason, p.attempts, p.parked_at, p.retry_at
  from atoll.parked p left join atoll.node n on n.number = p.origin
union all
select atoll.stamp_node(d.stamp), coalesce(n.name, atoll.stamp_node(d.stamp)::text), d.stamp, z.tbl, 'schema-waits', d.problem, d.tries,
       atoll.stamp_time(d.stamp), d.retry_at
  from atoll.schema_done d join atoll.schema_change z using (stamp) left join atoll.node n on n.number = atoll.stamp_node(d.stamp)
 where d.problem is not null
 order by parked_at limit %s;

-- retry: tries all of them now
select merged, remain from atoll.retry_parked(true);
