-- A node among its peers: who they are, what is published to each, how far each has come, what may be deleted.

-- The peers that this node should have a link to.
create or replace function atoll.peers()
returns table (number integer, name text, region text, tier text, addresses text[])
language sql stable set search_path = pg_catalog
begin atomic
    select n.number, n.name, n.region, n.tier, n.addresses
      from atoll.node n
     where n.number <> atoll.me() and n.revoked_at is null
    union all
    select i.number, i.name, i.region, i.tier, i.addresses
      from atoll.self s, jsonb_to_recordset(s.introduced) i (number integer, name text, region text, tier text, addresses text[])
     where i.number <> atoll.me() and not exists (select from atoll.node n where n.number = i.number)
     order by 1;
end;

create or replace function atoll.is_member(peer integer) returns boolean
language sql stable set search_path = pg_catalog
return exists (select from atoll.peers() p where p.number = peer);

-- Where this node's and other nodes' changes may go, as a condition on the log, given a neighbour's role.
--
-- Changes climb and then descend: what came from below goes everywhere, what came from above or from the side goes
-- down only. So each change takes one way to each node. A tie that people made carries everything. Kin, edges of a
-- region without a hub, give each other what must not leave the region. What a peer had heard before it began anew is
-- not sent again: it may have forgotten since that it was deleted.
create or replace function atoll.filter_for(peer integer) returns text
language sql stable set search_path = pg_catalog
return (
    select format('(target is null or target = %s) and scope = any (%L::text[])', p.number,
                  array['region:' || p.region, 'node:' || p.number] || case when r.role = 'kin' then '{}' else '{global}'::text[] end)
        || case when r.role in ('down', 'tie') then format(' and origin <> %1$s and (via is null or via <> %1$s)', p.number)
                when r.role = 'kin' then ' and way is null'
                else format(' and origin <> %s and (way is null or way = any (''{d,t}''::"char"[]))', p.number) end
        || coalesce((select format(' and (target is not null or xid >= %L::xid8)', g.since) from atoll.progress g where g.peer = p.number and g.since > '0'), '')
      from atoll.peers() p, lateral (select coalesce((select n.role from atoll.neighbour n where n.number = p.number), 'side') as role) r
     where p.number = peer);

-- Is what is published to a peer what publish_to would publish? Somebody may have changed it by hand.
create or replace function atoll.is_published_to(peer integer) returns boolean
language sql stable set search_path = pg_catalog
return exists (
    select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid join atoll.progress g on g.peer = is_published_to.peer
     where p.pubname = 'atoll_to_' || is_published_to.peer and p.pubinsert and r.prrelid = 'atoll.change'::regclass
       and g.wanted = atoll.filter_for(is_published_to.peer) and g.filter = pg_get_expr(r.prqual, r.prrelid));

-- What this node publishes to a peer. Where that was not so for a while, changes may have passed the peer by: its
-- slot goes too, and it begins anew from the log.
create or replace function atoll.publish_to(peer integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    condition constant text := atoll.filter_for(peer);
begin
    if condition is null then
        perform atoll.refuse('not-a-member', format('node %s is no member that is known here', peer), state => 'AT003');
    end if;
    insert into atoll.progress (peer) values (publish_to.peer) on conflict do nothing;
    if not atoll.is_published_to(peer) then
        perform atoll.drop_slot('atoll_to_' || peer);
        execute format('drop publication if exists %I', 'atoll_to_' || peer);
        execute format('create publication %I for table atoll.change (origin, seq, version, tbl, op, at, ats, prev, prevs, epochs, n, cols, vals, target, scope) '
                       'where (%s) with (publish = ''insert'')', 'atoll_to_' || peer, condition);
        update atoll.progress g set wanted = condition, filter = (select pg_get_expr(r.prqual, r.prrelid)
                   from pg_publication p join pg_publication_rel r on r.prpubid = p.oid where p.pubname = 'atoll_to_' || publish_to.peer)
         where g.peer = publish_to.peer;
    end if;
end $$;

-- Drops a slot that somebody may be reading from.
create or replace function atoll.drop_slot(slot text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    for attempt in 1..50 loop
        perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = slot and active_pid is not null;
        begin
            perform pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = slot;
            return;
        exception when object_in_use then
            perform pg_sleep(0.02);
        end;
    end loop;
    perform atoll.refuse('slot-in-use', format('could not drop slot %s: it is in use', slot), state => 'AT002');
end $$;

create or replace function atoll.unpublish_to(peer integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    execute format('drop publication if exists %I', 'atoll_to_' || peer);
    perform pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = 'atoll_to_' || peer and active_pid is not null;
    delete from atoll.progress p where p.peer = unpublish_to.peer and not atoll.waits_for(p.peer);
    update atoll.progress p set copied = false where p.peer = unpublish_to.peer;
end $$;

-- What a node that was shut out wrote last may have reached some of the others only: they tell each other everything
-- once more.
create or replace function atoll.owe_everybody() returns void
language sql security definer set search_path = pg_catalog
begin atomic
    update atoll.progress set missed = true, misses = misses + 1;
end;

-- The nodes to have links to, from the topology: [{"number", "role", "in_use"}, ...].
create or replace function atoll.set_neighbours(wanted jsonb) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
begin
    if not exists (select from (select number, role, in_use from atoll.neighbour) h
                     full join jsonb_to_recordset(wanted) w (number integer, role text, in_use boolean) on h = w
                    where h.number is null or w.number is null) then
        return false;
    end if;
    delete from atoll.neighbour;
    insert into atoll.neighbour (number, role, in_use)
    select number, role, in_use from jsonb_to_recordset(wanted) w (number integer, role text, in_use boolean);
    delete from atoll.progress p
     where not atoll.waits_for(p.peer) and p.filter is not null
       and not exists (select from pg_publication where pubname = 'atoll_to_' || p.peer);
    perform atoll.set_relay();
    return true;
end $$;

-- Whether changes of other nodes pass through here. set_relay replaces it with the constant.
create or replace function atoll.relays() returns boolean
language sql stable
return exists (select from atoll.neighbour where role in ('down', 'tie'));

create or replace function atoll.set_relay() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    is_relay constant boolean := exists (select from atoll.neighbour where role in ('down', 'tie'));
begin
    if is_relay is distinct from atoll.relays() or not exists (select from pg_proc where oid = 'atoll.relays()'::regprocedure and provolatile = 'i') then
        execute format('create or replace function atoll.relays() returns boolean language sql immutable return %L::boolean', is_relay);
    end if;
end $$;

-- The peer that this session applies changes of.
create or replace function atoll.came_from() returns integer
language plpgsql set search_path = pg_catalog as $$
declare
    known text := nullif(current_setting('atoll.came_from', true), '');
begin
    if known is null then
        select substr(subname, 12) into known from pg_stat_subscription where pid = pg_backend_pid() and subname ~ '^atoll_from_[0-9]+$' limit 1;
        perform set_config('atoll.came_from', coalesce(known, '0'), false);
    end if;
    return known;
end $$;


-- Slots of peers that are no members, or that lost their WAL: dropped, so that they hold nothing back.
create or replace function atoll.drop_dead_slots() returns setof text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    slot record;
begin
    for slot in select s.slot_name from pg_replication_slots s
                 where not s.active
                   and (s.wal_status = 'lost' and s.slot_name ~ '^(atoll_to_|pg_[0-9]+_sync_)'
                        or s.slot_name ~ '^atoll_to_[0-9]+$' and not atoll.is_member(substr(s.slot_name, 10)::integer)) loop
        perform pg_drop_replication_slot(slot.slot_name);
        return next slot.slot_name;
    end loop;
end $$;

-- From where on the log is sent to a peer that is about to subscribe. It may have heard less than it said: it lost
-- what it had not flushed.
create or replace function atoll.begin_at(peer integer, told jsonb) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    place constant xid8 := coalesce(atoll.unheard_from(peer, told), '0');
begin
    insert into atoll.progress (peer) values (begin_at.peer) on conflict do nothing;
    update atoll.progress p set since = place
     where p.peer = begin_at.peer and p.since <> place
       and (p.since > place or not exists (select from pg_replication_slots where slot_name = 'atoll_to_' || begin_at.peer));
end $$;

-- What a peer is told before it subscribes, and every few seconds after. It says whether its first copy is done: until
-- then it confirms WAL whose changes it has not applied. And it says how far it has heard everybody, where it begins.
drop function if exists atoll.prepare_for(integer, boolean);
create or replace function atoll.prepare_for(peer integer, told jsonb) returns jsonb
language plpgsql security definer set search_path = pg_catalog as $$
declare
    role atoll.neighbour := (select n from atoll.neighbour n where n.number = prepare_for.peer);
    has_copied constant boolean := coalesce((told->>'copied')::boolean, false);
    slot text;
begin
    if not atoll.is_member(peer) then
        perform atoll.refuse('not-a-member', format('node %s is no member that is known here', peer), state => 'AT003');
    elsif role.number is null and exists (select from atoll.neighbour) then
        perform atoll.refuse('not-a-neighbour', format('node %s gets its changes from other nodes', peer), state => 'AT003');
    elsif not role.in_use then
        return '{"slot": "none", "missed": false, "wants_us": false}';
    end if;
    if (told->>'subscribed')::boolean is not true then
        perform atoll.begin_at(peer, told->'heard');
    end if;
    perform atoll.publish_to(peer);
    select case when wal_status = 'lost' then 'lost' when confirmed_flush_lsn is null then 'making' else 'kept' end into slot
      from pg_replication_slots where slot_name = 'atoll_to_' || peer;
    update atoll.progress p set copied = not p.copied
     where p.peer = prepare_for.peer and p.copied <> (has_copied and coalesce(slot, '') = 'kept');
    if coalesce(slot, 'lost') = 'lost' then
        update atoll.progress p set missed = true, misses = p.misses + 1, cut = '0' where p.peer = prepare_for.peer and p.xid <= p.cut and p.cut > '0';
    end if;
    return jsonb_build_object(
        'slot', coalesce(slot, 'none'),
        'missed', (select missed from atoll.progress p where p.peer = prepare_for.peer),
        'lost_copy', told->>'copy_slot' is not null
            and not exists (select from pg_replication_slots where slot_name = told->>'copy_slot' and wal_status <> 'lost'),
        'absent', atoll.absent_since(peer));
end $$;

-- What a node should have and somebody took away: tables declared but not installed, triggers dropped or
-- switched off. Says how many things were mended.
create or replace function atoll.mend() returns integer
language plpgsql security definer set search_path = pg_catalog as $$
declare
    mended integer := 0;
    t      record;
begin
    perform atoll.install_tables();
    for t in
        select l.name from atoll.local_table l
         where l.problem is null and exists (
            select from (select relid from pg_partition_tree(l.relid) union select l.relid) r
             where (select count(*) from pg_trigger g where g.tgrelid = r.relid and g.tgenabled = 'O'
                       and g.tgname in ('atoll_capture_insert', 'atoll_capture_update', 'atoll_capture_delete', 'atoll_capture_truncate')) < 4)
    loop
        mended := mended + atoll.set_triggers(t.name);
    end loop;
    if exists (select from pg_trigger where tgrelid = 'atoll.change'::regclass and tgname = 'arrive' and tgenabled <> 'R') then
        alter table atoll.change enable replica trigger arrive;
        mended := mended + 1;
    end if;
    return mended;
end $$;

-- All scopes of a node.
create or replace function atoll.scopes_of(node integer) returns text[]
language sql stable set search_path = pg_catalog
return array['global', 'node:' || node]
    || case when node = atoll.me() then atoll.here() else (select 'region:' || coalesce((select n.region from atoll.node n where n.number = node), (select p.region from atoll.peers() p where p.number = node))) end;

-- May a node have what is in a scope?
create or replace function atoll.may_have(node integer, scope text) returns boolean
language sql stable set search_path = pg_catalog
return scope = any (atoll.scopes_of(node));

-- Is the log kept for an upstream that stands by? Where it may have what is this node's and the one in use may not: what
-- is of their region comes to it from here alone, when it is in use again.
create or replace function atoll.waits_for(peer integer) returns boolean
language sql stable security definer set search_path = pg_catalog
return exists (
    select from atoll.neighbour n, unnest(atoll.scopes_of(n.number)) s
     where n.number = waits_for.peer and n.role = 'up' and not n.in_use and s = any (atoll.scopes_of(atoll.me()))
       and not exists (select from atoll.neighbour u where u.role = 'up' and u.in_use and atoll.may_have(u.number, s)));

create or replace function atoll.seeded(c atoll.change) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    told record;
begin
    for told in select h.* from jsonb_to_recordset(c.vals[1]::jsonb) h (origin integer, scope text, n bigint, horizon xid8, covered bigint, others jsonb) loop
        perform atoll.note_mark(told.origin, told.scope, told.n, 0, told.horizon, told.covered, told.others);
    end loop;
    update atoll.self set seeded_at = coalesce(seeded_at, clock_timestamp());
end $$;
