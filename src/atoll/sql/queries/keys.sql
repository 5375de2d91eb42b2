-- all: the keys that are good now; and what others may not that jobs may still speak of
select name, case when revoked_at is null then sha256 end as sha256, may_read, rate, token_rate, budget, scope, tables
  from atoll.api_key where revoked_at is null or revoked_at > clock_timestamp() - interval '31 days';

-- add: a new key
select atoll.add_key(%s, %s, %s);

-- set: what a key may not from now on
select atoll.set_key(%s, %s);

-- listing: all keys that there were
select name, made_at, revoked_at, may_read, rate, token_rate, budget, scope, tables from atoll.api_key order by revoked_at is not null, name;

-- revoke: a key is good no more
update atoll.api_key set revoked_at = clock_timestamp() where name = %s and revoked_at is null returning name;

-- wake: tells the node's process that it was given a key, which is no row
notify atoll_models;
