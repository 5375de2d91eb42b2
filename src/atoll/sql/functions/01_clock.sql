-- Time: stamps order writes, ids order rows.
--
-- A stamp is 41 bits of milliseconds since 2020, 6 of counter and 16 of node number in one bigint: totally
-- ordered, unique per row because a row's next stamp is always later than the row's last. There is one clock,
-- atoll.clock_ms(); the setting atoll.clock_offset_ms moves it and atoll.clock_stands_at_ms stops it, which only
-- tests do. A clock that has not been set yet (a small machine that wakes up in 1970) stands at the beginning:
-- counting goes on from what has been seen, and no stamp is ever negative.

create or replace function atoll.clock_ms() returns bigint
language sql volatile parallel safe
return greatest(1, coalesce(nullif(current_setting('atoll.clock_stands_at_ms', true), '')::bigint,
       (extract(epoch from clock_timestamp()) * 1000)::bigint - 1577836800000
     + coalesce(nullif(current_setting('atoll.clock_offset_ms', true), '')::bigint, 0)));

-- The number of this node. sql.install replaces it with the constant, which the planner then folds.
create or replace function atoll.me() returns integer
language sql immutable parallel safe
return 0;

create or replace function atoll.tick() returns bigint
language sql immutable parallel safe
return 65536::bigint;

create or replace function atoll.now() returns bigint
language sql volatile parallel safe
return (atoll.clock_ms() << 22) | atoll.me();

-- The first stamp of this node after `seen` that is not behind the clock.
create or replace function atoll.stamp_after(seen bigint) returns bigint
language sql volatile parallel safe
return greatest((atoll.clock_ms() << 22) | atoll.me(), (((coalesce(seen, 0) >> 16) + 1) << 16) | atoll.me());

create or replace function atoll.stamp_node(stamp bigint) returns integer
language sql immutable strict parallel safe
return (stamp & 65535)::integer;

create or replace function atoll.stamp_time(stamp bigint) returns timestamptz
language sql immutable strict parallel safe
return to_timestamp(((stamp >> 22) + 1577836800000) / 1000.0);

create sequence if not exists atoll.id_seq minvalue 0 start 0;

-- A bigint key without coordination: ordered by time to the second, unique in the atoll. It counts 64 ids to the
-- millisecond and runs ahead of the clock in a burst. The lock makes sure that the counter only moves forward:
-- whoever is behind waits for it, so between the two reads at most one id per session can be handed out, and
-- the counter is moved only when it is thousands behind.
create or replace function atoll.id() returns bigint
language plpgsql volatile security definer set search_path = pg_catalog as $$
declare
    counter bigint := nextval('atoll.id_seq');
    present bigint := atoll.clock_ms() << 6;
begin
    if counter < present - 64000 then
        perform pg_advisory_lock(x'61746f6c'::int, 1);
        if (select last_value from atoll.id_seq) < present - 64000 then
            perform setval('atoll.id_seq', present);
        end if;
        perform pg_advisory_unlock(x'61746f6c'::int, 1);
        counter := nextval('atoll.id_seq');
    end if;
    return (counter << 16) | atoll.me();
end $$;
comment on function atoll.id() is 'a time-ordered bigint key that no other node hands out';
