-- tablespaces: whether there are any beside PostgreSQL's own
select exists (select from pg_tablespace where spcname not in ('pg_default', 'pg_global'));

-- keep_wal: what is written from here on stays until the session ends
select pg_create_physical_replication_slot(%s, true, true);

-- start: the name of the WAL file in which the backup begins
select pg_walfile_name(pg_backup_start('atoll backup', true));

-- stop: the name of the WAL file in which it ends, and what the server that starts from it has to know
select pg_walfile_name(lsn), labelfile from pg_backup_stop(false);
