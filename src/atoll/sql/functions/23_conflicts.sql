-- What lost, to what, when and why; what could not be merged yet.
--
-- Every node derives the same conflicts from the same writes. Two writes conflict when the later writer had not
-- seen the earlier: each write names the stamp that it overwrote, and if that is not the stamp found here,
-- somebody else wrote in between. A write that only arrives late is told apart by atoll.expected.

create or replace function atoll.note_conflicts(of_table text, key jsonb, policies jsonb, state jsonb, delta jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    col    text;
    was    bigint;      -- the stamp found here
    at     bigint;      -- the arriving stamp
    prev   bigint;      -- what the arriving write had overwritten
    kind_  text;
    latest bigint;
begin
    if not delta ? 'p' then
        return;
    end if;
    if delta ? 'd' then
        at := (delta->>'d')::bigint;
        prev := (delta->>'p')::bigint;
        latest := atoll.latest(state);
        if latest is null or latest < prev then
            perform atoll.expect(of_table, key, '', prev);
        elsif latest > at then
            if not atoll.was_expected(of_table, key, '', at) and coalesce((state->>'d')::bigint, 0) < at then
                perform atoll.note(of_table, key, null, 'delete', null, null, at, null, latest,
                                   'the row was written after this deletion, by a node that had not seen it');
            end if;
        elsif latest > prev and at > coalesce((state->>'d')::bigint, 0) then
            perform atoll.note(of_table, key, null, 'delete', null, state->'v', latest, null, at,
                               'the row was deleted later, by a node that had not seen this write');
        end if;
        return;
    end if;
    kind_ := case when delta ? 'b' then 'insert' else 'update' end;
    at := atoll.latest(delta);
    if at < (state->>'d')::bigint and at > coalesce(atoll.latest(state), 0)
       and not atoll.was_expected(of_table, key, '', at) then
        perform atoll.note(of_table, key, null, 'delete', null,
                           coalesce(state->'v', '{}') || (select coalesce(jsonb_object_agg(v.key, v.value), '{}')
                                                            from jsonb_each(delta->'v') v where not policies ? v.key),
                           at, null, (state->>'d')::bigint, 'the row was deleted later, by a node that had not seen this write');
    elsif kind_ = 'update' and at > (state->>'d')::bigint and atoll.latest(state) < (state->>'d')::bigint
          and (select max(p.value::bigint) from jsonb_each_text(delta->'p') p) < (state->>'d')::bigint then
        perform atoll.note(of_table, key, null, 'delete', null, null, (state->>'d')::bigint, null, at,
                           'the row was written after this deletion, by a node that had not seen it');
    end if;
    for col, at, prev in
        select t.key, t.value::bigint, (delta->'p'->>t.key)::bigint from jsonb_each_text(delta->'t') t
    loop
        continue when policies ? col or prev is null;
        was := (state->'t'->>col)::bigint;
        if was is null or was < prev then
            if prev > 0 then
                perform atoll.expect(of_table, key, col, prev);
            end if;
        elsif was > at then
            if atoll.was_expected(of_table, key, col, at) then
                if prev > 0 then
                    perform atoll.expect(of_table, key, col, prev);
                end if;
            elsif state->'v'->>col is distinct from delta->'v'->>col and at > coalesce((state->>'d')::bigint, 0) then
                perform atoll.note(of_table, key, col, kind_, delta->'v'->>col, null, at, state->'v'->>col, was,
                                   'a later write, by a node that had not seen this one');
            end if;
        elsif was > prev and was < at and was > coalesce((state->>'d')::bigint, 0)
              and state->'v'->>col is distinct from delta->'v'->>col then
            perform atoll.note(of_table, key, col, kind_, state->'v'->>col, null, was, delta->'v'->>col, at,
                               'a later write, by a node that had not seen this one');
        end if;
    end loop;
end $$;

create or replace function atoll.expect(of_table text, of_key jsonb, of_col text, of_stamp bigint) returns void
language sql
begin atomic
    insert into atoll.expected (tbl, key, col, stamp) values (of_table, of_key, of_col, of_stamp) on conflict do nothing;
end;

create or replace function atoll.was_expected(of_table text, of_key jsonb, of_col text, of_stamp bigint) returns boolean
language plpgsql set search_path = pg_catalog as $$
begin
    delete from atoll.expected e where e.tbl = of_table and e.key = of_key and e.col = of_col and e.stamp = of_stamp;
    return found;
end $$;

-- A node has always seen its own earlier writes: such a pair is a write that arrived late, or once more.
create or replace function atoll.note(of_table text, of_key jsonb, of_col text, of_kind text, lost text, lost_row_ jsonb,
                                      lost_at bigint, won text, won_at bigint, because text) returns void
language sql
begin atomic
    insert into atoll.conflict (tbl, key, col, kind, lost_value, lost_row, lost_stamp, won_value, won_stamp, why)
    select of_table, of_key, of_col, of_kind, lost, lost_row_, lost_at, won, won_at, because
     where of_kind in ('unique', 'fact') or atoll.stamp_node(lost_at) <> atoll.stamp_node(won_at)
    on conflict do nothing;
end;

create or replace function atoll.note_unique(of_table text, lost_key jsonb, won_key jsonb, lost_at bigint, won_at bigint, lost_row_ jsonb)
returns void
language sql
begin atomic
    select atoll.note(of_table, lost_key, null, 'unique', null, lost_row_, lost_at, won_key::text, won_at,
                      'set aside: another row claimed the same unique key later');
end;

create or replace view atoll.conflicts as
select c.id, c.seen_at, c.tbl as "table", c.key, c.col as "column", c.kind,
       coalesce(c.lost_value, c.lost_row::text) as lost_value,
       atoll.stamp_time(c.lost_stamp) as lost_at, coalesce(l.name, atoll.stamp_node(c.lost_stamp)::text) as lost_by,
       c.won_value, atoll.stamp_time(c.won_stamp) as won_at, coalesce(w.name, atoll.stamp_node(c.won_stamp)::text) as won_by,
       c.why, c.reverted_at
  from atoll.conflict c
  left join atoll.node l on l.number = atoll.stamp_node(c.lost_stamp)
  left join atoll.node w on w.number = atoll.stamp_node(c.won_stamp);

create or replace function atoll.park(c atoll.change, code text, reason text) returns void
language sql
begin atomic
    insert into atoll.parked (origin, seq, tbl, change, code, reason, retry_at)
    values (c.origin, c.seq, c.tbl, to_jsonb(c), code, reason, clock_timestamp() + interval '1 second')
    on conflict (origin, seq) do update
       set attempts = parked.attempts + 1, code = excluded.code, reason = excluded.reason,
           retry_at = clock_timestamp() + least(interval '1 second' * 2 ^ least(parked.attempts, 12), interval '5 minutes');
end;

-- Tries parked changes again (those that are due, or all); says how many were merged and how many remain.
create or replace function atoll.retry_parked(everything boolean default false, most integer default 1000)
returns table (merged integer, remain integer)
language plpgsql security definer set search_path = pg_catalog set session_replication_role = replica as $$
declare
    p record;
begin
    merged := 0;
    for p in select k.origin, k.seq, k.change from atoll.parked k
              where everything or k.retry_at <= clock_timestamp()
              order by k.parked_at limit most for update skip locked
    loop
        if atoll.merge(jsonb_populate_record(null::atoll.change, p.change)) then
            delete from atoll.parked k where k.origin = p.origin and k.seq = p.seq;
            merged := merged + 1;
        end if;
    end loop;
    select count(*)::integer into remain from atoll.parked;
    return next;
end $$;

-- Writes a conflict's loser back, as a new write by whoever asks.
create or replace function atoll.revert(conflict_id bigint) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    c     atoll.conflict;
    keys  text;
    found boolean;
    n     bigint;
begin
    select * into c from atoll.conflict where id = conflict_id;
    if c.id is null then
        perform atoll.refuse('conflict-unknown', format('conflict %s does not exist', coalesce(conflict_id::text, 'null')), hint => 'List them with: select * from atoll.conflicts');
    elsif c.reverted_at is not null then
        perform atoll.refuse('conflict-reverted', format('conflict %s has been reverted already', conflict_id));
    elsif c.kind = 'schema' then
        perform atoll.refuse('conflict-of-schema', format('cannot revert conflict %s: it is about the shape of table %s', conflict_id, c.tbl), hint => 'Alter the table again: atoll migrate');
    end if;
    keys := atoll.list(c.tbl, 'key', 'm.{c} operator({=}) ($1->>{l})::{t}', ' and ');
    if keys is null then
        perform atoll.refuse('table-unknown', format('table %s is not shared here', c.tbl));
    end if;
    if c.col is not null then
        execute format('update %s m set %I = ($2)::%s where %s', c.tbl, c.col,
                       (select type from atoll.local_column where tbl = c.tbl and name = c.col), keys)
          using c.key, c.lost_value;
        get diagnostics n = row_count;
        if n = 0 then
            perform atoll.refuse('row-gone', format('cannot revert conflict %s: its row is gone', conflict_id));
        end if;
    elsif c.lost_row is null then
        execute format('delete from %s m where %s', c.tbl, keys) using c.key;
    else
        execute format('update %s m set %s where %s', c.tbl,
                       atoll.list(c.tbl, 'value', '{c} = case when $2 ? {l} then ($2->>{l})::{t} else m.{c} end'), keys)
          using c.key, c.lost_row;
        get diagnostics n = row_count;
        if n = 0 then
            execute format('insert into %s (%s) overriding system value values (%s)', c.tbl,
                           atoll.list(c.tbl, 'all', '{c}'), atoll.list(c.tbl, 'all', '(($1 || $2)->>{l})::{t}'))
              using c.key, c.lost_row;
        end if;
    end if;
    perform atoll.mark_reverted(conflict_id);
end $$;

create or replace function atoll.mark_reverted(conflict_id bigint) returns void
language sql security definer set search_path = pg_catalog
begin atomic
    update atoll.conflict set reverted_at = clock_timestamp() where id = conflict_id;
end;
