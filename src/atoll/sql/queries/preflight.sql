-- facts: what a node has to know about a server that is somebody else's, before it uses it
select (select jsonb_object_agg(name, setting) from pg_settings where name = any (%(names)s)) as settings,
       r.rolname as role,
       d.datname as database,
       pg_encoding_to_char(d.encoding) as encoding,
       pg_is_in_recovery() as is_standby,
       r.rolsuper as is_superuser,
       r.rolsuper or r.rolreplication or coalesce((select pg_has_role(oid, 'usage') from pg_roles where rolname = 'rds_replication'), false) as may_replicate,
       has_database_privilege(d.oid, 'create') as may_create,
       pg_has_role('pg_create_subscription', 'usage') as may_subscribe,
       pg_has_role('pg_signal_backend', 'usage') as may_signal,
       has_parameter_privilege(current_user, 'session_replication_role', 'set') as may_switch,
       r.rolsuper or r.rolcreaterole and coalesce((select pg_has_role(oid, 'member with admin option') from pg_roles where rolname = 'atoll_link'), true) as may_make_roles_of_link,
       array(select distinct pg_get_userbyid(c.relowner)::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('r', 'p') and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname not like 'pg\_%%'
                and n.nspname not like 'atoll%%' and not pg_has_role(c.relowner, 'usage') order by 1) as other_owners,
       array(select slot_name::text from pg_replication_slots where slot_name ~ '^atoll_to_' and database <> current_database() order by 1) as slots_elsewhere,
       array(select format('%%s on %%s', t.tgname, t.tgrelid::regclass) from pg_trigger t join pg_class c on c.oid = t.tgrelid
              where t.tgenabled in ('R', 'A') and not t.tgisinternal and c.relnamespace::regnamespace::text not like 'atoll%%' order by 1) as triggers_elsewhere,
       to_regclass('atoll.self') is not null as is_installed
  from pg_roles r, pg_database d
 where r.rolname = current_user and d.datname = current_database();

-- tenant: the node that the database belongs to, if that is another one
select name from atoll.self where atoll_id::text is distinct from %(atoll_id)s;
