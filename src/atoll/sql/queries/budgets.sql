-- facts: all budgets, and what is known of their leases
select atoll.me(), f.name, f.amount, f.unit, f.period_seconds, f.granter, f.nodes, f.present, f.leases from atoll.budget_facts() f;

-- move: what this node does with its own lease
select drawn from atoll.move_lease(%s, %s, %s, %s, %s);

-- grant: more to a node
select granted from atoll.grant_lease(%s, %s, %s, %s);

-- forget: leases of periods long ago
delete from atoll.budget_lease where budget = %s and period = any (%s);

-- forget_all: leases of budgets that have been dropped
delete from atoll.budget_lease l where not exists (select from atoll.budget b where b.name = l.budget) and l.node = atoll.me();
