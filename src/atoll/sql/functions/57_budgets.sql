-- Budgets: what has to hold of their leases, whoever decides (router/budgets/lease.py): nothing that is written shrinks, a node draws
-- no more than it holds, and the granter grants no more than there is.

create or replace function atoll.set_budget(name text, amount bigint, unit text default 'cost', period interval default '1 day') returns void
language plpgsql security definer set search_path = pg_catalog as $$
#variable_conflict use_column
declare
    seconds constant bigint := extract(epoch from set_budget.period);
    there   atoll.budget;
begin
    if coalesce(set_budget.name, '') !~ '^[a-z0-9][a-z0-9._-]{0,62}$' or coalesce(set_budget.amount, -1) < 0 or set_budget.unit is null or set_budget.unit not in ('cost', 'tokens')
       or seconds is null or seconds not between 1 and 31622400 then
        perform atoll.refuse('budget-malformed', format('cannot set budget "%s" to %s %s in %s', set_budget.name, set_budget.amount, set_budget.unit, set_budget.period),
            hint => 'A name of small letters, an amount (millionths where the unit is cost), cost or tokens, and a period of 1 second to 366 days.');
    end if;
    select * into there from atoll.budget b where b.name = set_budget.name;
    if there.granter <> atoll.me() then
        perform atoll.refuse('budget-elsewhere', format('budget "%s" is granted by node %s', there.name, there.granter), 'Only there it is known what has been granted.', 'Change it on that node.');
    elsif (there.unit, there.period_seconds) is distinct from (set_budget.unit, seconds::integer) and there.name is not null then
        perform atoll.refuse('budget-exists', format('budget "%s" has another unit or period', there.name), hint => 'Choose another name.');
    elsif there.name is null and (select count(*) from atoll.budget) >= 100 then
        perform atoll.refuse('budgets-many', 'there are 100 budgets already', hint => 'Drop one: select atoll.drop_budget(…)');
    end if;
    insert into atoll.budget (name, amount, unit, period_seconds, granter) values (set_budget.name, set_budget.amount, set_budget.unit, seconds, atoll.me())
    on conflict (name) do update set amount = excluded.amount;
end $$;
comment on function atoll.set_budget(text, bigint, text, interval) is 'so much may be spent in each period by all nodes together; this node grants it';

create or replace function atoll.drop_budget(name text) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
#variable_conflict use_column
begin
    delete from atoll.budget b where b.name = drop_budget.name;
    return found;
end $$;
comment on function atoll.drop_budget(text) is 'ends a budget; whether there was one';

-- The budgets, with the leases of periods that may still count.
create or replace function atoll.budget_facts() returns table (name text, amount bigint, unit text, period_seconds integer, granter integer, nodes bigint, present double precision, leases jsonb)
language sql volatile set search_path = pg_catalog as $$
    select b.name, b.amount, b.unit, b.period_seconds, b.granter, (select 1 + count(*) from atoll.peers()), extract(epoch from atoll.time_after())::float8,
           (select coalesce(jsonb_agg(jsonb_build_array(l.node, l.period, l.wanted, l.granted, l.drawn, l.returned)), '[]') from atoll.budget_lease l where l.budget = b.name)
      from atoll.budget b order by b.name
$$;

-- What a holder does with its own lease. No row: it does not hold so much.
create or replace function atoll.move_lease(of_budget text, of_period bigint, wants bigint, draws bigint, gives_back bigint) returns table (drawn bigint)
language sql volatile set search_path = pg_catalog as $$
    insert into atoll.budget_lease (budget, node, period, wanted) values (of_budget, atoll.me(), of_period, wants) on conflict do nothing;
    update atoll.budget_lease l set wanted = greatest(l.wanted, wants), drawn = l.drawn + draws, returned = l.returned + gives_back
     where l.budget = of_budget and l.node = atoll.me() and l.period = of_period and draws >= 0 and gives_back >= 0
       and l.granted - l.returned - l.drawn >= draws + gives_back
    returning l.drawn
$$;

-- What the granter does. No row: it is not the granter, or there is not so much.
create or replace function atoll.grant_lease(of_budget text, to_node integer, of_period bigint, total bigint) returns table (granted bigint)
language plpgsql volatile set search_path = pg_catalog as $$
declare
    b atoll.budget;
begin
    select * into b from atoll.budget x where x.name = of_budget and x.granter = atoll.me() for no key update;
    return query update atoll.budget_lease l set granted = total
     where l.budget = b.name and l.node = to_node and l.period = of_period and l.granted < total
       and b.amount >= total - l.returned + (select coalesce(sum(o.granted - o.returned), 0) from atoll.budget_lease o where o.budget = b.name and o.period = of_period and o.node <> to_node)
    returning l.granted;
end $$;

create or replace view atoll.budgets as
select b.name, b.amount, b.unit, make_interval(secs => b.period_seconds) as period, coalesce(n.name, b.granter::text) as granter, l.period as number, to_timestamp(l.period * b.period_seconds) as begins_at,
       sum(l.granted - l.returned) as granted, sum(l.drawn) as drawn, sum(l.granted - l.returned - l.drawn) filter (where l.node = atoll.me()) as held_here
  from atoll.budget b left join atoll.budget_lease l on l.budget = b.name left join atoll.node n on n.number = b.granter
 group by b.name, l.period, n.name;
