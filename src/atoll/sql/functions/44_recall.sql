-- A node that was restored from a backup, or whose database is older than what its peers have seen of it, takes a new
-- number: under the old one, its peers would take its next writes for those that they have had.

-- Ends everything that hangs on the number that this node has had: what is sent, and how far it came. Subscriptions
-- are dropped by the caller, because that takes statements of their own.
create or replace function atoll.end_links() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    name text;
begin
    for name in select pubname from pg_publication where pubname ~ '^atoll_to_[0-9]+$' loop
        perform atoll.unpublish_to(substr(name, 10)::integer);
    end loop;
    for name in select slot_name from pg_replication_slots where slot_name ~ '^atoll_to_[0-9]+$' loop
        perform atoll.drop_slot(name);
    end loop;
    delete from atoll.acquaintance;
end $$;

-- Links that people made or cut by hand stay with the node when it has another number: a chain would fall apart
-- without them.
create or replace function atoll.carry_ties(old_number integer, new_number integer) returns void
language sql security definer set search_path = pg_catalog
begin atomic
    insert into atoll.tie (a, b, kind, why)
    select least(new_number, o.other), greatest(new_number, o.other), t.kind, t.why
      from atoll.tie t, lateral (select case when t.a = old_number then t.b else t.a end as other) o
     where old_number in (t.a, t.b) and old_number <> new_number and o.other <> new_number
    on conflict do nothing;
end;

-- Takes another number. The rows that are here already are then told to everybody under it, and a copy of what the
-- others have is asked for: merging is the same whichever of the two has more.
create or replace function atoll.take_number(new_number integer, because text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    old_number constant integer := (select number from atoll.self);
begin
    insert into atoll.former (number, why) select number, because from atoll.self where number <> new_number
    on conflict (number) do update set until = now(), why = excluded.why, told_at = null;
    update atoll.self set number = new_number, seeded_without = '{}',
           seeded_at = case when exists (select from atoll.peers()) then null else seeded_at end;
    perform atoll.settle_in();
    perform atoll.carry_ties(old_number, new_number);
end $$;

-- A member that shows a certificate for a number that is not known here has taken a new one: it is a member under it,
-- and the numbers that it had under the same name are not used any more.
create or replace function atoll.know_again(of_number integer, of_name text, of_region text, of_tier text, at text[]) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    -- Of those whom it was introduced to, a newcomer gets the rows with its copy.
    insert into atoll.node (number, name, region, tier, addresses) select of_number, of_name, of_region, of_tier, at
     where not exists (select from atoll.peers() p where p.number = of_number)
    on conflict do nothing;
    perform atoll.carry_ties(n.number, of_number) from atoll.node n where n.name = of_name and n.number <> of_number and n.revoked_at is null;
    update atoll.node set revoked_at = now() where name = of_name and number <> of_number and revoked_at is null;
end $$;
