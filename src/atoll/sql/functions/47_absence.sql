-- Members that are away: for how long, when the others wait no more, and how that is known by all.
--
-- A deletion is remembered until every member knows it. A member that stays away would make that for ever. So after
-- `absence_max` it is marked absent, in a shared table, and from then on nobody waits for it. Such a member may hold
-- rows that are deleted and forgotten elsewhere: what it has is not taken over before it has compared itself with
-- the others (49_returning.sql).
--
-- Only the larger part of the members marks others, so that two parts never forget for themselves; of two halves
-- that with the lowest number. Who is cut off alone waits.

-- Since when a member is marked absent, if it is. Under a new number it is still the same member.
create or replace function atoll.absent_since(peer integer) returns timestamptz
language sql stable set search_path = pg_catalog
return (
    select max(a.since) from atoll.absence a
     where a.since > coalesce(a.returned_at, '-infinity')
       and (a.number = peer or a.number in (select o.number from atoll.node o join atoll.node n on n.name = o.name where n.number = peer)));

create or replace function atoll.is_absent(peer integer) returns boolean
language sql stable set search_path = pg_catalog
return atoll.absent_since(peer) is not null;

-- The members that this node has heard lately or has a link to, and those that it has not. Who sends files is heard
-- by them.
create or replace function atoll.present() returns table (number integer, is_present boolean)
language sql stable set search_path = pg_catalog
begin atomic
    with bound as (select least(interval '5 minutes', atoll.setting('absence_max')::interval) as silent_after)
    select p.number, coalesce(h.heard_at > now() - b.silent_after or l.state = 'up' and l.seen_at > now() - interval '1 minute', false)
           or exists (select from atoll.transfer t where t.peer = p.number and not t.is_ours and t.made_at > now() - atoll.setting('absence_max')::interval)
      from bound b, atoll.peers() p
      left join atoll.heard h on h.origin = p.number and h.scope = 'global'
      left join atoll.link_state l on l.peer = p.number
     where not atoll.is_absent(p.number);
end;

-- May this node speak for the atoll: does it hear the larger part of the members that are not absent?
create or replace function atoll.hears_most() returns boolean
language sql stable set search_path = pg_catalog
return not atoll.is_absent(atoll.me()) and (
    select count(*) > 0 and (2 * (count(*) filter (where is_present) + 1) > count(*) + 1
           or 2 * (count(*) filter (where is_present) + 1) = count(*) + 1
              and least(atoll.me(), min(number) filter (where is_present)) < min(number) filter (where not is_present))
      from atoll.present());

-- Marks a member absent. What it had written until then, as far as it is known here, is what need not be kept. The same
-- goes for what it wrote under numbers that it had before: it may not have sent all of that either.
create or replace function atoll.mark_absent(member integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    one integer;
begin
    for one in select member union select n.number from atoll.node n join atoll.node m on m.name = n.name where m.number = member loop
        insert into atoll.absence (number, since, heard, by_node)
        values (one, clock_timestamp(), coalesce((select h.covered from atoll.heard h where h.origin = one and h.scope = 'global'), 0), atoll.me())
        on conflict (number) do update set heard = excluded.heard, by_node = excluded.by_node,
            since = greatest(excluded.since, absence.returned_at + interval '1 microsecond')
         where absence.since <= absence.returned_at;
    end loop;
    delete from atoll.silence s where s.number = member;
end $$;

-- Counts for how long members have been silent, and marks those that were for too long. Says who was marked, and who
-- will be before long.
create or replace function atoll.note_absences() returns table (number integer, is_marked boolean, after timestamptz)
language plpgsql security definer set search_path = pg_catalog as $$
#variable_conflict use_column
declare
    most    constant double precision := extract(epoch from atoll.setting('absence_max')::interval);
    speaks  constant boolean := atoll.hears_most();
    m       record;
begin
    delete from atoll.silence s where not exists (select from atoll.present() p where p.number = s.number and not p.is_present);
    insert into atoll.silence (number) select p.number from atoll.present() p where not p.is_present on conflict do nothing;
    -- Time that this node slept away, or was cut off itself, is not the other's.
    update atoll.silence set noted_at = clock_timestamp(),
           seconds = seconds + case when speaks then least(extract(epoch from clock_timestamp() - noted_at), 60) else 0 end;
    for m in select s.number, s.seconds >= most and speaks as is_due, now() + (most - s.seconds) * interval '1 second' as due_at
               from atoll.silence s where s.seconds >= most * 0.75 order by s.number loop
        if m.is_due then
            perform atoll.mark_absent(m.number);
        end if;
        number := m.number; is_marked := m.is_due; after := m.due_at;
        return next;
    end loop;
end $$;

-- When a silent member will be marked absent, if it stays away; for one that is, when that was.
create or replace function atoll.absent_from(peer integer) returns timestamptz
language sql stable set search_path = pg_catalog
return coalesce(
    atoll.absent_since(peer),
    (select now() + (extract(epoch from atoll.setting('absence_max')::interval) - s.seconds) * interval '1 second' from atoll.silence s where s.number = peer));
