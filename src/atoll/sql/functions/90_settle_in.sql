-- The last step of installing: what depends on who this node is.

-- Makes atoll.me(), atoll.here() and atoll.here_only() the constants that atoll.self says.
create or replace function atoll.settle_in() returns void
language plpgsql security definer set search_path = pg_catalog set check_function_bodies = off as $$
begin
    execute format('create or replace function atoll.me() returns integer language sql immutable parallel safe return %s',
                   coalesce((select number from atoll.self), 0));
    execute format('create or replace function atoll.here() returns text language sql immutable parallel safe return %L::text', 'region:' || coalesce((select region from atoll.self), 'local'));
    execute format('create or replace function atoll.here_only() returns text language sql immutable parallel safe return %L::text', 'node:' || coalesce((select number from atoll.self), 0));
    perform atoll.set_arrival();
    -- A role of the schema's name would otherwise make its tables there.
    if current_user = 'atoll' then
        execute format('alter role atoll in database %I set search_path = public', current_database());
        -- In a deadlock with an application, the apply worker notices first, parks the change and tries again.
        if has_parameter_privilege(current_user, 'deadlock_timeout', 'set') then
            execute format('alter role atoll in database %I set deadlock_timeout = ''200ms''', current_database());
        end if;
    end if;
    perform atoll.note_shape(l.name) from atoll.local_table l where l.problem is null and not exists (select from atoll.local_shape s where s.tbl = l.name);
    perform atoll.set_guards();
    perform atoll.set_rollup_guard();
    perform atoll.grant_rights();
    perform atoll.render_dispatch();
    perform atoll.set_wake();
    perform atoll.set_node_wakes();
    perform atoll.set_relay();
    if atoll.me() = 0 then
        return;
    end if;
    -- The nodes and the declarations are themselves shared.
    insert into atoll.shared_table (name, kind, merge, scope_column, definition, declared)
    select o.name, o.kind, atoll.own_merge(o.name), o.scope_column, '', 0 from atoll.own_tables() o
    on conflict do nothing;
    perform atoll.install_tables();
end $$;
