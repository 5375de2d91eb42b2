-- The roles of a node, brought to what they should be at each start. Run in the database atoll by its owner,
-- with the application's password in atoll.app_password.
do $roles$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'atoll_link') then
        create role atoll_link login replication;
    end if;
    if not exists (select from pg_catalog.pg_roles where rolname = 'app') then
        create role app login;
    end if;
    execute pg_catalog.format('alter role app password %L', pg_catalog.current_setting('atoll.app_password'));
    -- The link's role may replicate; these would let it read the log through a slot of its own.
    revoke execute on function pg_catalog.pg_create_physical_replication_slot, pg_catalog.pg_create_logical_replication_slot,
        pg_catalog.pg_logical_slot_get_changes, pg_catalog.pg_logical_slot_get_binary_changes,
        pg_catalog.pg_logical_slot_peek_changes, pg_catalog.pg_logical_slot_peek_binary_changes,
        pg_catalog.pg_replication_slot_advance, pg_catalog.pg_drop_replication_slot from public;
    -- The application owns what it makes: its tables are in public, or in schemas that it creates.
    if (select nspowner from pg_catalog.pg_namespace where nspname = 'public') <> 'app'::regrole then
        alter schema public owner to app;
    end if;
    grant create, connect, temporary on database atoll to app;
    -- Only a superuser may create it, and applications want it.
    if exists (select from pg_catalog.pg_available_extensions where name = 'vector') then
        create extension if not exists vector with schema public;
    end if;
    -- A full disk makes transactions read only by default; the node has to go on tidying up.
    alter role atoll set default_transaction_read_only = off;
end
$roles$;
