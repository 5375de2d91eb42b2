-- Copies of everything, for one peer: written stretch by stretch in the order of keys, each in a transaction of its own
-- that also notes how far the copy is. So a copy goes on where it was when the node comes back, and never takes more
-- room in the log than what the peer has not taken in yet.
--
-- Rows that were written once, at birth, travel as inserts with a stamp each; all others as whole states. Only what the
-- peer may have is among them. What is written while a copy is made travels as ever.

create or replace function atoll.seed_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{fn_seed}}(for_peer integer, stretch text) returns bigint
language plpgsql security definer {{output}} {{plan_for_one}} as $body$
declare
    atoll_plain  bigint;
    atoll_states bigint;
begin
    execute replace($q$
        with written as (
            insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, target{{and_scope}})
            select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', max(atoll_at), array_agg(atoll_at)::text, 0, count(*),
                   array[{{col_names}}], array[{{agg_literals}}], $1{{scope_r}}
              from (select r.*, m.atoll_birth as atoll_at, {{chunk}} as atoll_chunk
                      from {{side}} m join {{table}} r on {{m_is_r}} cross join (select $2 as atoll_scopes) atoll_given
                     where (#stretch#) and {{untouched}} and {{may_have_r}}) r
             group by atoll_chunk{{by_scope}} returning n)
        select sum(n) from written $q$, '#stretch#', stretch) into atoll_plain using for_peer, atoll.scopes_of(for_peer);
    execute replace($q$
        with written as (
            insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, target{{and_scope}})
            select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'S', atoll.now(), count(*),
                   array[{{key_names}}, '@state'], array[{{agg_key_literals}}, array_agg(atoll_state::text)::text], $1{{and_scope_r}}
              from (select r.*, (row_number() over () - 1) / 500 as atoll_chunk{{scope_of_it}}
                      from (select {{m_keys}}, {{fn_read}}(m.*, r.*) as atoll_state
                              from {{side}} m left join {{table}} r on {{m_is_r}} where (#stretch#) and not ({{untouched}})) r
                           cross join (select $2 as atoll_scopes) atoll_given
                     where {{may_have_state}}) r
             group by atoll_chunk{{by_state_scope}} returning n)
        select sum(n) from written $q$, '#stretch#', stretch) into atoll_states using for_peer, atoll.scopes_of(for_peer);
    return coalesce(atoll_plain, 0) + coalesce(atoll_states, 0);
end $body$;
$template$ $sql$;

create or replace function atoll.append_seed_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{fn_seed}}(for_peer integer, stretch text) returns bigint
language plpgsql security definer {{output}} {{plan_for_one}} as $body$
declare
    atoll_rows bigint;
begin
    execute replace($q$
        with written as (
            insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals, target{{and_scope}})
            select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll.now(), 0, count(*),
                   array[{{col_names}}], array[{{agg_literals}}], $1{{scope_r}}
              from (select r.*, {{chunk}} as atoll_chunk
                      from (select m.* from {{table}} m where (#stretch#)) r cross join (select $2 as atoll_scopes) atoll_given where {{may_have_r}}) r
             group by atoll_chunk{{by_scope}} returning n)
        select sum(n) from written $q$, '#stretch#', stretch) into atoll_rows using for_peer, atoll.scopes_of(for_peer);
    return coalesce(atoll_rows, 0);
end $body$;
$template$ $sql$;

-- What is parked here has been heard as well, and nobody else will send it. It goes first: what is merged here while
-- the copy is written may lie in a stretch that has gone.
create or replace function atoll.pass_parked(to_peer integer) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    insert into atoll.change (origin, seq, version, tbl, op, at, ats, prev, prevs, epochs, n, cols, vals, target, scope)
    select atoll.me(), nextval('atoll.change_seq'), c.version, c.tbl, c.op, c.at, c.ats, c.prev, c.prevs, c.epochs, c.n, c.cols, c.vals, to_peer, c.scope
      from atoll.parked p cross join lateral jsonb_populate_record(null::atoll.change, p.change) c
     where atoll.may_have(to_peer, c.scope)
     order by p.parked_at;
end $$;

-- The next stretch of a copy, or its end. Says whether there is more.
create or replace function atoll.seed_step(for_peer integer) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
declare
    owed_at constant integer := (select misses from atoll.progress where peer = for_peer and missed);
    c       atoll.copying;
    t       atoll.local_table;
    upto    text;
    written bigint;
begin
    delete from atoll.copying where peer = for_peer and misses <> (select p.misses from atoll.progress p where p.peer = for_peer);
    if owed_at is null then
        return false;
    end if;
    -- How far this node has heard everybody when it begins is what the peer will have heard at the end.
    insert into atoll.copying (peer, misses, heard)
    select for_peer, owed_at, coalesce(jsonb_agg(jsonb_build_object('origin', origin, 'scope', scope, 'n', n, 'horizon', horizon, 'covered', covered, 'others', others)), '[]')
      from atoll.heard where atoll.may_have(for_peer, scope)
    on conflict do nothing;
    if found then
        perform atoll.pass_parked(for_peer);
    end if;
    select * into c from atoll.copying where peer = for_peer;
    select l.* into t from atoll.local_table l where l.problem is null and l.name <> all (c.done)
     order by l.name <> coalesce(c.tbl, ''), l.name not like 'atoll.%', l.name <> 'atoll.node', l.name <> 'atoll.shared_table', l.made_at limit 1;
    if t.name is null then
        insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, target)
        values (atoll.me(), nextval('atoll.change_seq'), '', 'S', atoll.now(), 0, '{heard}', array[c.heard::text], for_peer);
        update atoll.progress set missed = false where peer = for_peer and misses = owed_at;
        update atoll.copying set ended = pg_current_wal_insert_lsn(), tbl = null where peer = for_peer;
        return false;
    end if;
    if c.tbl is distinct from t.name then
        c.after := '';
    end if;
    upto := atoll.slice_end(t.name, c.after, atoll.stretch_rows(t));
    execute format('select %s($1, $2)', atoll.generated(t.side, 'seed')) into written using for_peer, atoll.key_range(t.name, c.after, upto);
    update atoll.copying set rows = rows + written, moved_at = clock_timestamp(), tbl = case when upto is not null then t.name end, after = coalesce(upto, ''),
           done = case when upto is null then done || t.name else done end
     where peer = for_peer;
    return true;
end $$;

-- So many rows of a table that a stretch has a few megabytes.
create or replace function atoll.stretch_rows(t atoll.local_table) returns integer
language sql stable set search_path = pg_catalog
return (select least(5000, greatest(50, 8e6 / greatest(pg_table_size(c.oid) / greatest(c.reltuples, 1), 1)))::integer from pg_class c where c.oid = t.relid);

-- Does a peer take in what is sent to it, so that little of that is on its way? Who has no slot yet copies the log.
create or replace function atoll.keeps_up(peer integer) returns boolean
language sql volatile set search_path = pg_catalog
return not exists (
    select from pg_replication_slots s
     where s.slot_name = 'atoll_to_' || peer
       and (not s.active or pg_wal_lsn_diff(pg_current_wal_lsn(), s.confirmed_flush_lsn) > 32 * 1024 * 1024));

-- Writes a whole copy, no faster than the peer takes it in. Who stops taking for a minute gets the rest when it asks again.
create or replace procedure atoll.seed(for_peer integer)
language plpgsql as $$
begin
    while atoll.seed_step(for_peer) loop
        commit;
        for wait in 1 .. 600 loop
            exit when atoll.keeps_up(for_peer);
            commit;
            perform pg_sleep(0.1);
        end loop;
        if not atoll.keeps_up(for_peer) then
            return;
        end if;
    end loop;
    commit;
end $$;

-- A peer asks for a copy of everything. Until it is written, the asking is remembered. Who asks for its first copy, and
-- asks again, means the one that is being written or on its way.
drop function if exists atoll.owe_seed(integer);
create or replace function atoll.owe_seed(to_peer integer, is_first boolean default false) returns void
language sql security definer set search_path = pg_catalog
begin atomic
    update atoll.progress p set missed = true, misses = p.misses + 1
     where p.peer = to_peer
       and not (is_first and exists (
           select from atoll.copying c left join pg_replication_slots s on s.slot_name = 'atoll_to_' || c.peer
            where c.peer = to_peer and c.misses = p.misses and (c.ended is null or s.confirmed_flush_lsn < c.ended)));
end;

-- How far the copy for a peer is.
create or replace function atoll.copied_for(for_peer integer) returns table (written bigint, tables_done integer, tables_all integer)
language sql stable security definer set search_path = pg_catalog
begin atomic
    select c.rows, cardinality(c.done), (select count(*) from atoll.local_table where problem is null)::integer from atoll.copying c where c.peer = for_peer;
end;
