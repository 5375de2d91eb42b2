-- The last step of installing: what depends on who this node is.

-- Makes atoll.me() the constant that atoll.self holds.
create or replace function atoll.settle_in() returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    execute format('create or replace function atoll.me() returns integer language sql immutable parallel safe return %s',
                   coalesce((select number from atoll.self), 0));
    if not exists (select from pg_trigger where tgrelid = 'atoll.change'::regclass and tgname = 'arrive') then
        create trigger arrive before insert on atoll.change for each row execute function atoll.arrive();
        alter table atoll.change enable replica trigger arrive;
    end if;
    -- A role of the schema's name would otherwise make its tables there.
    if current_user = 'atoll' then
        execute format('alter role atoll in database %I set search_path = public', current_database());
    end if;
    perform atoll.grant_rights();
    perform atoll.render_dispatch();
    if atoll.me() = 0 then
        return;
    end if;
    -- The nodes and the declarations are themselves shared.
    insert into atoll.shared_table (name, kind, merge, definition, declared)
    values ('atoll.node', 'merge', '{}', '', 0), ('atoll.shared_table', 'merge', '{}', '', 0)
    on conflict do nothing;
    perform atoll.install_tables();
end $$;

-- What an application may do: share its tables, make ids, look at conflicts and parked changes, put a loser
-- back. Everything else runs with the owner's rights and only the node may call it.
create or replace function atoll.grant_rights() returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    revoke all on all functions in schema atoll, atoll_side from public;
    if exists (select from pg_roles where rolname = 'app') then
        grant usage on schema atoll to app;
        grant select on atoll.node, atoll.shared_table, atoll.local_table, atoll.local_column, atoll.setting,
                        atoll.conflict, atoll.conflicts, atoll.parked to app;
        grant execute on function
            atoll.share(text, jsonb, text), atoll.declare_shared(regclass, jsonb, text), atoll.find_table(text),
            atoll.unshare(text), atoll.end_sharing(text), atoll.qualified(regclass),
            atoll.id(), atoll.me(), atoll.clock_ms(), atoll.now(), atoll.stamp_node(bigint), atoll.stamp_time(bigint),
            atoll.revert(bigint), atoll.mark_reverted(bigint), atoll.list(text, text, text, text),
            atoll.refuse(text, text, text, text, text) to app;
    end if;
end $$;
