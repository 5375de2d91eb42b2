-- Tokens: how an application reads on one node what it wrote on another, and knows that others have it.
--
-- '7.734' stands for transaction 734 of node 7, '7.<734' for every transaction of node 7 before it. Another node has
-- them when it has heard a mark of node 7 whose horizon lies beyond, in each scope that it may have. Who has been
-- to several nodes carries one of each, the last one first: '7.734~3.<812'.

drop function if exists atoll.token();
create or replace function atoll.token(carried text default null) returns text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    mine   constant xid8 := pg_current_xact_id_if_assigned();
    beyond constant text := coalesce((mine::text::bigint + 1)::text, pg_snapshot_xmax(pg_current_snapshot())::text);
begin
    -- At the commit the node makes a mark, so that nobody waits for the next one that is due.
    perform pg_notify('atoll_mark', beyond);
    return atoll.me() || '.' || coalesce(mine::text, '<' || beyond)
        || coalesce((select string_agg('~' || r.origin || '.<' || r.horizon, '' order by r.origin)
                       from atoll.read_tokens(carried) r), '');
end $$;
comment on function atoll.token(text) is 'what was written and committed on this node so far, to be given to atoll.wait_for elsewhere';

-- What a token says: whose transactions, up to where, and whether it is one transaction.
create or replace function atoll.read_token(token text, out origin integer, out horizon xid8, out of_xid xid8)
language plpgsql immutable set search_path = pg_catalog as $$
#variable_conflict use_variable
declare
    parts constant text[] := regexp_match(token, '^([0-9]{1,5})\.(<?)([0-9]{1,18})$');
begin
    if parts is null then
        perform atoll.refuse('token-malformed', format('cannot read token %s', coalesce(quote_literal(left(token, 40)), 'null')),
            hint => 'A token is what select atoll.token() gave on some node.');
    end if;
    origin := parts[1]::integer;
    of_xid := case when parts[2] = '' then parts[3]::xid8 end;
    horizon := case when parts[2] = '' then (parts[3]::bigint + 1)::text else parts[3] end::xid8;
end $$;

-- How far the other nodes have to be heard by what a token says, of this one's and of those that it carries.
create or replace function atoll.read_tokens(token text, out origin integer, out horizon xid8) returns setof record
language sql stable set search_path = pg_catalog
begin atomic
    select r.origin, max(r.horizon)
      from string_to_table(token, '~') one, lateral atoll.read_token(one) r
     where r.origin <> atoll.me() group by r.origin;
end;

create or replace function atoll.check_wait(timeout interval) returns timestamptz
language plpgsql volatile set search_path = pg_catalog as $$
begin
    if timeout is null or timeout not between interval '0' and interval '1 hour' then
        perform atoll.refuse('wait-limit', 'a wait is between nothing and one hour');
    end if;
    return clock_timestamp() + timeout;
end $$;

-- Has this node everything of an origin up to a horizon that it may have? The origin's mark in the scope that all nodes
-- share says how far it was in the others.
create or replace function atoll.has_heard(of_origin integer, up_to xid8) returns boolean
language sql volatile security definer set search_path = pg_catalog
begin atomic
    select exists (select from atoll.heard h where h.origin = of_origin and h.scope = 'global' and h.horizon >= up_to and atoll.is_whole(h));
end;

create or replace function atoll.wait_for(token text, timeout interval default '10 s') returns boolean
language plpgsql volatile security definer set search_path = pg_catalog as $$
declare
    given    constant record := atoll.read_token(split_part(token, '~', 1));
    deadline constant timestamptz := atoll.check_wait(timeout);
    pause    double precision := 0.005;
begin
    if given.origin = atoll.me() and not exists (select from atoll.read_tokens(token)) then
        return true;
    elsif current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        perform atoll.refuse('snapshot-fixed', 'cannot wait for a token in this transaction',
            'Its isolation level shows it the database as it was when it began, so nothing that arrives is seen.',
            'Wait before the transaction begins, or use READ COMMITTED.');
    end if;
    -- Each statement below has a snapshot of its own, and sees what has been committed meanwhile.
    loop
        if (select bool_and(atoll.has_heard(w.origin, w.horizon)) from atoll.read_tokens(token) w) then
            return true;
        elsif clock_timestamp() >= deadline then
            return false;
        end if;
        perform pg_sleep(least(pause, extract(epoch from deadline - clock_timestamp())::double precision));
        pause := least(pause * 1.5, 0.1);
    end loop;
end $$;
comment on function atoll.wait_for(text, interval) is 'waits until this node has what a token stands for; false if it has not come in time';

-- The neighbours that have confirmed the log up to a place: what came before it is merged and on their disks.
-- `scopes` are those that a copy has to be allowed to have.
create or replace function atoll.copies_at(place pg_lsn, scopes text[], out able integer, out reached integer)
language sql volatile security definer set search_path = pg_catalog
begin atomic
    select count(*), count(*) filter (where p.copied and not p.missed and s.confirmed_flush_lsn >= place and s.wal_status <> 'lost')
      from atoll.neighbour n
      left join atoll.progress p on p.peer = n.number
      left join pg_replication_slots s on s.slot_name = 'atoll_to_' || n.number and s.database = current_database()
     where n.in_use and scopes <@ atoll.scopes_of(n.number);
end;

create or replace function atoll.confirm(copies integer, timeout interval default '10 s', token text default null) returns integer
language plpgsql volatile security definer set search_path = pg_catalog as $$
declare
    place    constant pg_lsn := pg_current_wal_insert_lsn();
    deadline constant timestamptz := atoll.check_wait(timeout);
    wanted   record;
    scopes   text[] := '{}';
    found    record;
    pause    double precision := 0.002;
begin
    if pg_current_xact_id_if_assigned() is not null then
        perform atoll.refuse('confirm-before-commit', 'cannot confirm what is not committed',
            'This transaction has written, and nothing of it leaves this node before it commits.',
            'Commit, then select atoll.confirm(…) in a transaction of its own.');
    elsif copies is null or copies < 1 then
        perform atoll.refuse('copies-none', 'a confirmation is of one copy or more');
    end if;
    if token is not null then
        wanted := atoll.read_token(split_part(token, '~', 1));
        if wanted.origin <> atoll.me() then
            perform atoll.refuse('token-elsewhere', format('token %s is of another node', quote_literal(token)), hint => 'Confirm on the node where you wrote.');
        end if;
        scopes := (select coalesce(array_agg(distinct c.scope), '{}') from atoll.change c
                    where c.xid = wanted.of_xid and c.origin = atoll.me() and c.tbl <> '' and c.target is null);
    end if;
    loop
        found := atoll.copies_at(place, scopes);
        if found.reached >= copies then
            return found.reached;
        elsif found.able < copies then
            perform atoll.refuse('copies-too-many', format('cannot have %s copies', copies),
                format('%s of this node''s neighbours may have one.', found.able), 'See who they are: select * from atoll.neighbour');
        elsif clock_timestamp() >= deadline then
            perform atoll.refuse('copies-missing', format('could not confirm %s copies in time', copies),
                format('%s neighbours have it. The write stands here, and travels on.', found.reached), state => 'AT002');
        end if;
        perform pg_sleep(least(pause, extract(epoch from deadline - clock_timestamp())::double precision));
        pause := least(pause * 1.5, 0.05);
    end loop;
end $$;
comment on function atoll.confirm(integer, interval, text) is 'waits until so many neighbours have what was committed here before';
