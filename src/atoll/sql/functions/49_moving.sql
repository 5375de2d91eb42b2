-- A node moves with its data: out of an atoll of its own into another one, or back into one that it has left.
--
-- Into another one (move_in) it comes as a new member. What it knows of the old atoll goes; its tables stay, and wait in
-- atoll.brought until they are declared in the new atoll: by those who share them there already, or by this node. They
-- are then taken up like any rows that are there when a table is shared (take_up), but with the times at which they were
-- written, and under this node's number: the old one may be another node's here. So of two rows with the same key, the
-- later write of each column wins, and sums of counters add up.
--
-- Back into its own (move_back) it only takes a new number: its stamps mean the same there. The node that admits it has
-- marked that number absent, so it returns as an absent member does (49_returning.sql).

-- A stamp of the same time, by another node.
create or replace function atoll.restamped(stamp bigint, by_node integer) returns bigint
language sql immutable parallel safe
return stamp >> 16 << 16 | by_node;

create or replace function atoll.pack(t atoll.local_table, to_number integer) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    times constant text := case t.kind when 'merge' then format('atoll_side.%I', 'brought:' || t.side) end;
begin
    if t.scope_column is not null then
        execute format('update %s m set %2$I = %3$L where m.%2$I::text = %4$L', t.name, t.scope_column, 'node:' || to_number, atoll.here_only());
    end if;
    if times is not null then
        execute format('create table %s as select %s, m.atoll_birth%s from atoll_side.%I m join %s r on %s', times, atoll.list(t.name, 'key', 'm.{c}'),
                       (select string_agg(format(', m.%I', c.name), '') from atoll.local_column c where c.tbl = t.name and c.policy in ('lww', 'scope')), t.side, t.name, atoll.list(t.name, 'key', 'm.{c} operator({=}) r.{c}', ' and '));
    end if;
    insert into atoll.brought (name, kind, merge, scope, scope_column, orphans, times)
    values (t.name, t.kind, t.merge, t.scope, t.scope_column, (select r.policy from atoll.orphan_rule r where r.tbl = t.name), times);
end $$;

-- Makes this the database of a new member of another atoll. Subscriptions have been dropped and writes are held before.
create or replace function atoll.move_in(to_atoll uuid, as_number integer, as_name text, met jsonb) returns void
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '10s' set session_replication_role = replica as $$
declare
    t       atoll.local_table;
    old     constant atoll.self := (select s from atoll.self s);
    -- What the node knows of itself and its application, or what people may still want to read.
    keeps   constant text[] := '{migration,setting,incarnation,conflict,repair,cursor,brought}';
begin
    perform pg_advisory_xact_lock(x'61746f6c'::int, 2);
    perform atoll.end_links();
    for t in select * from atoll.local_table l order by l.made_at loop
        if t.name not like 'atoll.%' and t.problem is null then
            perform atoll.pack(t, as_number);
        end if;
        perform atoll.uninstall_table(t.name);
    end loop;
    execute (select 'truncate ' || string_agg(format('atoll.%I', relname), ', ') from pg_class
              where relnamespace = 'atoll'::regnamespace and relkind = 'r' and relname <> all (keeps));
    update atoll.cursor set missed = true;
    insert into atoll.pulse default values;
    insert into atoll.self (atoll_id, number, name, region, introduced, moves) values (to_atoll, as_number, as_name, old.region, met, true);
end $$;

-- Makes this the database of a member that was one before, under its new number. What others do not know of its rows is
-- told as it returns; only facts have no stamps that could say so, and those that not everybody has confirmed are told here.
create or replace function atoll.move_back(as_number integer, met jsonb) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    confirmed constant xid8 := (select min(p.xid) from atoll.progress p where atoll.is_member(p.peer));
    unsure    constant integer := case when confirmed > '0' then age(confirmed::xid) else 2147483647 end;
begin
    perform atoll.end_links();
    perform atoll.take_number(as_number, 'it joined again');
    update atoll.self set introduced = met;
    update atoll.former set told_at = clock_timestamp() where told_at is null;
    insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, scope)
    select as_number, nextval('atoll.change_seq'), t.name, r.op, r.at, r.ats, r.prev, r.n, r.cols, r.vals, r.scope
      from atoll.local_table t, atoll.rows_as_changes(t.name, null, unsure) r where t.kind = 'append' and t.problem is null;
end $$;

-- States that say of each column that its writer had seen nobody else's value: so what loses to them, or they to, is listed
-- as a conflict. Of a column that was never written there (its stamp is from the beginning of time) nothing is said.
create or replace function atoll.as_unseen(states text) returns text
language sql stable set search_path = pg_catalog
return (select array_agg((e.v::jsonb || jsonb_build_object('p', (
                   select coalesce(jsonb_object_agg(t.key, 0), '{}') from jsonb_each_text(e.v::jsonb->'t') t where t.value::bigint >> 16 > 0)))::text
               order by e.i)::text
          from unnest(states::text[]) with ordinality e (v, i));

-- The rows of a table that was brought: their stamps go beside it, and they are told to everybody. A column that was not
-- brought was never written there, so whatever others have of it is later. Says whether it was a table that was brought.
create or replace function atoll.unpack(of_table text) returns boolean
language plpgsql set search_path = pg_catalog as $$
declare
    b    atoll.brought := (select b from atoll.brought b where b.name = of_table);
    t    constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    cols text;
    stamps text;
    is_wider boolean;
begin
    delete from atoll.brought where name = of_table;
    if b.name is null or t.kind = 'merge' and b.times is null then
        return false;   -- facts say nothing of times
    end if;
    if t.kind = 'merge' then
        -- No column is older than its row: where one was not brought, the row is from the beginning of time, and the others
        -- say for themselves when they were written.
        select bool_or(a.attname is null),
               string_agg(format(', %I', a.attname), '' order by l.ordinal) filter (where a.attname is not null),
               string_agg(format(', atoll.restamped(coalesce(b.%I, b.atoll_floor), %s)', a.attname, atoll.me()), '' order by l.ordinal) filter (where a.attname is not null)
          into is_wider, cols, stamps
          from atoll.local_column l left join pg_attribute a on a.attname = l.name and a.attrelid = b.times::regclass
         where l.tbl = of_table and l.policy in ('lww', 'scope');
        execute format('insert into atoll_side.%I (%s, atoll_birth%s) select %s, coalesce(atoll.restamped(b.atoll_row, %s), atoll.now())%s from %s m left join (select z.*, %s from %s z) b on %s',
                       t.side, atoll.list(of_table, 'key', '{c}'), cols, atoll.list(of_table, 'key', 'm.{c}'), atoll.me(), stamps, of_table,
                       case when is_wider then '0::bigint as atoll_row, z.atoll_birth as atoll_floor' else 'z.atoll_birth as atoll_row, null::bigint as atoll_floor' end,
                       b.times, atoll.list(of_table, 'key', 'm.{c} operator({=}) b.{c}', ' and '));
    end if;
    insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, scope)
    select atoll.me(), nextval('atoll.change_seq'), of_table, r.op, r.at, r.ats, r.prev, r.n, r.cols,
           case when r.op = 'S' then trim_array(r.vals, 1) || atoll.as_unseen(r.vals[cardinality(r.vals)]) else r.vals end, r.scope
      from atoll.rows_as_changes(of_table, null, 2147483647) r;
    if b.times is not null then
        execute 'drop table ' || b.times;
    end if;
    return true;
end $$;

-- Declares the tables that this node has brought and nobody shares here, once everything that others share is known.
-- Then applications may write again.
create or replace procedure atoll.share_brought()
language plpgsql as $$
declare
    b      atoll.brought;
    reason text;
begin
    if not exists (select from atoll.self where moves and seeded_at is not null) then
        return;
    end if;
    for b in select * from atoll.brought w where w.problem is null and not exists (select from atoll.shared_table s where s.name = w.name)
              order by coalesce(to_regclass(w.name)::oid, 0) loop
        begin
            perform atoll.declare_shared(b.name::regclass, b.merge, b.kind, b.scope, b.scope_column);
            if b.orphans is not null then
                perform atoll.set_orphan_rule(b.name::regclass, b.orphans);
            end if;
        exception when others then
            get stacked diagnostics reason = message_text;
            update atoll.brought set problem = reason where name = b.name;
            raise warning 'table % was brought and could not be shared: %', b.name, reason;
        end;
    end loop;
    call atoll.hold_writes(false);
    update atoll.self set moves = false;
end $$;
