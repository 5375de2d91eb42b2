-- The change feed: an ordered, resumable cursor over this node's own and arriving changes.
--
-- Order is (xid, pos), where pos is made of seq and origin, and only changes of transactions older than every
-- running one are read. So a slow transaction with a small number is never skipped: it holds the feed back until it
-- ends. While any cursor exists, arriving changes are kept and channel atoll_change is notified at each commit that
-- changed something. A subscription that is made anew brings a peer's latest changes once more: those that a feed
-- has passed by then appear in it again, at a later place.

create or replace function atoll.open_feed(feed text, tables text[] default '{}') returns void
language plpgsql as $$
begin
    perform atoll.make_cursor(feed, (select coalesce(array_agg(atoll.qualified(atoll.find_table(t))), '{}') from unnest(tables) t));
end $$;
comment on function atoll.open_feed(text, text[]) is 'opens a named cursor at now, over some shared tables or all';

create or replace function atoll.make_cursor(feed text, of_tables text[]) returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    had atoll.cursor;
    bad text;
begin
    if coalesce(feed, '') !~ '^[a-z][a-z0-9_.-]{0,62}$' then
        perform atoll.refuse('feed-name', format('cannot name a feed %s', coalesce(quote_literal(feed), 'null')),
            hint => 'A small letter, then small letters, digits, dots, hyphens and underscores.');
    end if;
    select t into bad from unnest(of_tables) t where not exists (select from atoll.shared_table s where s.name = t) limit 1;
    if bad is not null then
        perform atoll.refuse('table-not-shared', format('table %s is not shared', bad), hint => format('select atoll.share(%L) first.', bad));
    end if;
    select * into had from atoll.cursor c where c.name = feed;
    if had.name is null then
        insert into atoll.cursor (name, tables, xid, pos) values (feed, of_tables, pg_snapshot_xmin(pg_current_snapshot()), 0);
        perform atoll.set_wake();
    elsif had.tables <> of_tables then
        perform atoll.refuse('feed-exists', format('feed "%s" exists, over other tables', feed), hint => 'Close it first, or choose another name.');
    end if;
end $$;

-- The next changes, row by row, from where the cursor is.
create or replace function atoll.read_feed(feed text, most integer default 1000)
returns table (xid xid8, pos bigint, origin integer, "table" text, op "char", at timestamptz, "row" jsonb)
language sql stable set search_path = pg_catalog as $$
    select * from atoll.read_feed_after(feed, null, null, most)
$$;

-- The same from a place after the cursor, for whoever has read on without saying yet how far it is. A row that came in a copy of everything has op S, or D if it is no more. Reading does not move the cursor; say how far you are with atoll.move_feed.
create or replace function atoll.read_feed_after(feed text, after_xid xid8, after_pos bigint, most integer)
returns table (xid xid8, pos bigint, origin integer, "table" text, op "char", at timestamptz, "row" jsonb)
language plpgsql stable security definer set search_path = pg_catalog as $$
#variable_conflict use_column
declare
    c atoll.cursor;
begin
    select * into c from atoll.cursor k where k.name = feed;
    if c.name is null then
        perform atoll.refuse('feed-unknown', format('feed "%s" does not exist', feed), hint => format('select atoll.open_feed(%L) first.', feed));
    elsif c.missed then
        perform atoll.refuse('feed-missed', format('feed "%s" has missed changes', feed),
            'The log reached its bounds, and changes that this feed had not passed were deleted.',
            'Read the tables anew; then atoll.close_feed and atoll.open_feed.', 'AT002');
    elsif most is null or most not between 1 and 100000 then
        perform atoll.refuse('feed-limit', 'a feed is read in steps of 1 to 100000 changes');
    elsif (after_xid, after_pos) > (c.xid, c.pos) then
        c.xid := after_xid;
        c.pos := after_pos;
    end if;
    return query
    select l.xid, (l.seq << 16) | l.origin, l.origin, l.tbl,
           case when l.target is null then l.op
                when r.state is null or atoll.is_alive(r.state) then 'S' else 'D' end::"char",
           atoll.stamp_time(l.at), (r.fields - '@state') || coalesce(r.state->'v', '{}')
      from (select * from atoll.change h
             where (h.xid, h.seq, h.origin) > (c.xid, c.pos >> 16, c.pos & 65535) and h.xid < pg_snapshot_xmin(pg_current_snapshot())
               and h.tbl <> '' and h.tbl not like 'atoll.%' and (h.target is null or h.target = atoll.me())
               and (c.tables = '{}' or h.tbl = any (c.tables))
             order by h.xid, h.seq, h.origin limit most) l,
           lateral (select e.i, jsonb_object_agg(u.col, e.v) as fields,
                           (min(e.v) filter (where u.col = '@state'))::jsonb as state
                      from unnest(l.cols, l.vals) u (col, literal), unnest(u.literal::text[]) with ordinality e (v, i)
                     group by e.i) r
     order by l.xid, l.seq, l.origin, r.i;
end $$;

create or replace function atoll.move_feed(feed text, to_xid xid8, to_pos bigint) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    update atoll.cursor c set xid = to_xid, pos = to_pos, read_at = now()
     where c.name = feed and (c.xid, c.pos) <= (to_xid, to_pos) and to_xid < pg_snapshot_xmin(pg_current_snapshot());
    if not found then
        perform atoll.refuse('feed-position', format('cannot move feed "%s" there', feed),
            'Either it does not exist, or the place is behind where it is, or ahead of what can be read.', 'Use an xid and pos that atoll.read_feed gave.');
    end if;
end $$;

create or replace function atoll.close_feed(feed text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    delete from atoll.cursor c where c.name = feed;
    if not found then
        perform atoll.refuse('feed-unknown', format('feed "%s" does not exist', feed));
    end if;
    perform atoll.set_wake();
end $$;

-- Wakes listeners once per transaction. The trigger is there only while somebody follows: NOTIFY takes a lock that
-- all notifying transactions share.
create or replace function atoll.wake_feeds() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform pg_notify('atoll_change', '');
    return null;
end $$;

-- Whether any feed is open. set_wake replaces it with the constant, which costs an arriving change nothing.
create or replace function atoll.is_followed() returns boolean
language sql stable
return exists (select from atoll.cursor);

create or replace function atoll.set_wake() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    is_followed boolean;
    is_set      boolean;
begin
    perform pg_advisory_xact_lock(x'61746f6c'::int, 3);
    is_followed := exists (select from atoll.cursor);
    is_set := exists (select from pg_trigger where tgrelid = 'atoll.change'::regclass and tgname = 'wake');
    execute format('create or replace function atoll.is_followed() returns boolean language sql immutable return %L::boolean', is_followed);
    if is_set and not is_followed then
        drop trigger wake on atoll.change;
    elsif is_followed and not is_set then
        create trigger wake after insert on atoll.change for each statement execute function atoll.wake_feeds();
        alter table atoll.change enable always trigger wake;
    end if;
end $$;
