-- Marks: how far a node has heard every other one.
--
-- A node's process makes a mark in the log when there is something to cover, and now and then when there is not. A
-- mark travels with the changes of its scope, in order, through relays too. So who has heard mark n has everything
-- that came before it; a mark that names a forerunner which has not been heard shows that something is missing.

-- Makes a mark if there is something to cover, if it is asked for, or if the last one is old. Marks are made one at
-- a time, so that their numbers are in the order of commits.
create or replace function atoll.make_marks(is_asked boolean default false, quiet interval default '1 min') returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    -- Read before this transaction has a number: a smaller stamp is of a transaction with a smaller number.
    is_first constant boolean := pg_current_xact_id_if_assigned() is null;
    stamp    constant bigint := (atoll.clock_ms() << 22) - 1;   -- more may be written within this millisecond
    p        atoll.pulse;
    mine     xid8;
    horizon  xid8;
    scopes   text[];
    latest   jsonb;
    in_scope text;
begin
    select * into p from atoll.pulse for update;
    mine := pg_current_xact_id();
    horizon := pg_snapshot_xmin(pg_current_snapshot());
    select array_agg(distinct c.scope) into scopes from atoll.change c
     where c.xid >= p.xid and c.origin = atoll.me() and c.tbl <> '' and c.target is null and c.scope <> 'local';
    if scopes is null and not is_asked and p.made_at > now() - quiet then
        return null;
    end if;
    if is_first and horizon = mine then
        update atoll.pulse set covered = stamp returning * into p;
    elsif horizon > p.sample_xid then
        -- Transactions are running. What they have stamped by now is covered when they have ended.
        update atoll.pulse set covered = greatest(covered, sample) returning * into p;
        if is_first then
            update atoll.pulse set sample = stamp, sample_xid = mine;
        end if;
    end if;
    update atoll.pulse set n = n + 1, xid = horizon, made_at = clock_timestamp() returning n into p.n;
    scopes := array_remove(scopes, 'global') || '{global}'::text[];
    select jsonb_object_agg(h.scope, h.n) into latest from atoll.heard h where h.origin = atoll.me();
    latest := coalesce(latest, '{}') || (select jsonb_object_agg(s, p.n) from unnest(scopes) s)
           || jsonb_build_object('@heard', atoll.heard_up_to());
    foreach in_scope in array scopes loop
        insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, scope)
        values (atoll.me(), nextval('atoll.change_seq'), '', 'M', atoll.now(), 0, '{n,after,horizon,covered,others}',
                array[p.n::text, coalesce((select h.n from atoll.heard h where h.origin = atoll.me() and h.scope = in_scope), 0)::text,
                      horizon::text, p.covered::text, case when in_scope = 'global' then latest::text else '{}' end], in_scope);
        perform atoll.note_mark(atoll.me(), in_scope, p.n, 0, horizon, p.covered, case when in_scope = 'global' then latest else '{}' end);
    end loop;
    return p.n;
end $$;

-- Has this node heard every mark of an origin that the latest one names, as far as it may have them?
create or replace function atoll.is_whole(h atoll.heard) returns boolean
language sql stable set search_path = pg_catalog
return not exists (
    select from jsonb_each_text(h.others) k left join atoll.heard s on s.origin = h.origin and s.scope = k.key
     where atoll.admits(k.key) and coalesce(s.n, 0) < k.value::bigint);

-- Up to which stamp of an origin this node has everything that it may have. While a mark of one scope is ahead of
-- another's, that is what it was before.
create or replace function atoll.known_of(h atoll.heard) returns bigint
language sql stable set search_path = pg_catalog
return case when atoll.is_whole(h) then h.covered when h.known_here = atoll.here() then h.known else 0 end;

-- A mark that arrived.
create or replace function atoll.hear(c atoll.change) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    perform atoll.note_mark(c.origin, c.scope, c.vals[1]::bigint, c.vals[2]::bigint, c.vals[3]::xid8, c.vals[4]::bigint, c.vals[5]::jsonb);
end $$;

create or replace function atoll.note_mark(of_origin integer, in_scope text, n bigint, after bigint, horizon xid8, covered bigint, others jsonb) returns void
language plpgsql security definer set search_path = pg_catalog as $$
#variable_conflict use_variable
declare
    h    atoll.heard;
    told constant jsonb := jsonb_build_object('n', n, 'after', after, 'horizon', horizon, 'covered', covered, 'others', others);
begin
    insert into atoll.heard (origin, scope, n) values (of_origin, in_scope, 0) on conflict do nothing;
    select * into h from atoll.heard k where k.origin = of_origin and k.scope = in_scope for update;
    if n <= h.n then
        return;
    elsif after > h.n then
        -- Something is missing. What follows without a further gap is one stretch, and waits.
        update atoll.heard k set gap_since = coalesce(k.gap_since, clock_timestamp()),
               ahead = case when (h.ahead->>'n')::bigint >= after then told || jsonb_build_object('after', least(after, (h.ahead->>'after')::bigint)) else told end
         where k.origin = of_origin and k.scope = in_scope and n > coalesce((h.ahead->>'n')::bigint, 0);
        return;
    end if;
    update atoll.heard k set n = note_mark.n, horizon = note_mark.horizon, covered = note_mark.covered, others = note_mark.others, heard_at = clock_timestamp(),
           ahead = case when (h.ahead->>'n')::bigint > note_mark.n then h.ahead end, gap_since = case when (h.ahead->>'n')::bigint > note_mark.n then h.gap_since end
     where k.origin = of_origin and k.scope = in_scope;
    update atoll.heard k set known = k.covered, known_here = atoll.here()
     where k.origin = of_origin and k.scope = 'global' and (k.known, k.known_here) is distinct from (k.covered, atoll.here()) and atoll.is_whole(k);
    if (h.ahead->>'n')::bigint > n and (h.ahead->>'after')::bigint <= n then
        perform atoll.note_mark(of_origin, in_scope, (h.ahead->>'n')::bigint, 0, (h.ahead->>'horizon')::xid8, (h.ahead->>'covered')::bigint, h.ahead->'others');
    end if;
end $$;
