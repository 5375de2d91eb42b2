-- tablespaces: whether there are any beside PostgreSQL's own
select exists (select from pg_tablespace where spcname not in ('pg_default', 'pg_global'));

-- start: the name of the WAL file in which the backup begins
select pg_walfile_name(pg_backup_start('atoll backup', true));

-- keep_wal: what was written since the latest checkpoint stays until it is given up, or the session ends
select pg_create_physical_replication_slot(%s, true, true);

-- wal_now: the name of the WAL file that is being written, and the place in it; files before it are full
select pg_walfile_name(lsn), lsn::text from pg_current_wal_flush_lsn() lsn;

-- give_up_wal: the files before the one of this place
select pg_replication_slot_advance(%s, %s::pg_lsn);

-- stop: the name of the WAL file in which it ends, and what the server that starts from it has to know
select pg_walfile_name(lsn), labelfile from pg_backup_stop(false);
