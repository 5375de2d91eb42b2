-- Waking the node's process when rows change that it acts on. They may have come from another node, and where changes
-- arrive only triggers that are always on act.

create or replace function atoll.wake_node() returns trigger
language plpgsql set search_path = pg_catalog as $$
begin
    perform pg_notify(tg_argv[0], '');
    return null;
end $$;

create or replace function atoll.set_node_wakes() returns void
language plpgsql set search_path = pg_catalog as $$
declare
    wanted record;
begin
    for wanted in select w.rel::regclass, w.channel
                    from (values ('atoll.model', 'atoll_models'), ('atoll.desired_model', 'atoll_models'), ('atoll.api_key', 'atoll_models'), ('atoll.offer', 'atoll_offers'), ('atoll.route', 'atoll_models'), ('atoll.budget', 'atoll_models'),
                                 ('atoll.pipeline', 'atoll_pipelines'), ('atoll.embedding', 'atoll_pipelines'), ('atoll.search_rule', 'atoll_search'), ('atoll.rollup_rule', 'atoll_rollups')) w (rel, channel)
                   where not exists (select from pg_trigger g where g.tgrelid = w.rel::regclass and g.tgname = 'wake_node' and g.tgenabled = 'A')
    loop
        execute format('create or replace trigger wake_node after insert or update or delete on %s for each statement execute function atoll.wake_node(%L)', wanted.rel, wanted.channel);
        execute format('alter table %s enable always trigger wake_node', wanted.rel);
    end loop;
end $$;
