-- listing: what each is, and where what of it is in this period
select b.name, b.amount, b.unit, b.period_seconds, coalesce(n.name, b.granter::text) as granter, coalesce(sum(l.granted - l.returned), 0)::bigint as granted,
       coalesce(sum(l.drawn), 0)::bigint as drawn, coalesce(sum(l.granted - l.returned - l.drawn) filter (where l.node = atoll.me()), 0)::bigint as held_here
  from atoll.budget b left join atoll.node n on n.number = b.granter
  left join atoll.budget_lease l on l.budget = b.name and l.period = floor(extract(epoch from atoll.time_after()) / b.period_seconds)
 group by b.name, n.name order by b.name;

-- set: so much in each period
select atoll.set_budget(%(name)s, %(amount)s, %(unit)s, make_interval(secs => %(seconds)s));

-- drop: no budget any more
select atoll.drop_budget(%s) as is_done;

-- facts: all budgets, and what is known of their leases
select atoll.me(), f.name, f.amount, f.unit, f.period_seconds, f.granter, f.nodes, f.present, f.leases from atoll.budget_facts() f;

-- move: what this node does with its own lease
select drawn from atoll.move_lease(%s, %s, %s, %s, %s);

-- grant: more to a node
select granted from atoll.grant_lease(%s, %s, %s, %s);

-- forget: leases of periods long ago
delete from atoll.budget_lease where budget = %s and period = any (%s);

-- there: whether there is any, or a lease of one that was
select exists (select from atoll.budget) or exists (select from atoll.budget_lease l where l.node = atoll.me());

-- forget_dropped: this node's leases of budgets that are no more
delete from atoll.budget_lease l where not exists (select from atoll.budget b where b.name = l.budget) and l.node = atoll.me();
