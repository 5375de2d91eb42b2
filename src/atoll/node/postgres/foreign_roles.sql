-- The role that peers' streams come in with, on a server that is somebody else's. Run in the node's database by the
-- node's role, with the password of the link in atoll.link_password.
do $roles$
begin
    if not exists (select from pg_catalog.pg_roles where rolname = 'atoll_link') then
        begin
            create role atoll_link login replication;
        exception when insufficient_privilege then
            -- Where replication is a membership and no attribute.
            create role atoll_link login;
            grant rds_replication to atoll_link;
        end;
    end if;
    execute pg_catalog.format('alter role atoll_link password %L', pg_catalog.current_setting('atoll.link_password'));
end
$roles$;
