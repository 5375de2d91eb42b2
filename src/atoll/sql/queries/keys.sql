-- hashes: the keys that are good now
select sha256, name, may_read from atoll.api_key where revoked_at is null;

-- add: a new key
insert into atoll.api_key (name, sha256, may_read) values (%s, %s, %s) on conflict do nothing returning name;

-- listing: all keys that there were
select name, made_at, revoked_at, may_read from atoll.api_key order by revoked_at is not null, name;

-- revoke: a key is good no more
update atoll.api_key set revoked_at = clock_timestamp() where name = %s and revoked_at is null returning name;

-- wake: tells the node's process that it was given a key, which is no row
notify atoll_models;
