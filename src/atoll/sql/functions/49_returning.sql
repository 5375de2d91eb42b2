-- A member returns that was marked absent: it takes over what another one has, and keeps its own unsent writes.
--
-- The source says first up to which stamp of each node it had everything (`known`), then it writes a copy. So what
-- this node has and the copy has not, although the source knew it, was deleted and forgotten meanwhile: it goes. What
-- the source did not know was written here, or by somebody who was away too: it stays, and everybody is told.
--
--   unheard   of a row's state, the parts that the source did not know
--   return    a row of the copy: it replaces what is here, but for the unheard
--   sweep     the rows that were not in the copy
--
-- All of it can be done again from the beginning after a crash: entries that the copy has touched are told by the
-- transaction that wrote them last. Applications go on reading and writing meanwhile.

create or replace function atoll.is_heard(known jsonb, stamp bigint) returns boolean
language sql immutable parallel safe
return stamp is null or stamp <= coalesce((known->>(atoll.stamp_node(stamp)::text))::bigint, 0);

-- Up to which stamp of each node this one has everything, as far as it may have it and nothing is parked. An absent
-- member's unsent writes may be coming in already: those do not count before it has told of its rows, whichever of its
-- numbers they were written under. Of one that it took after it was marked, nothing was known then.
create or replace function atoll.known_stamps() returns jsonb
language sql stable security definer set search_path = pg_catalog
return (
    select coalesce(jsonb_object_agg(o.origin, least(o.covered, a.heard, p.before)), '{}')
      from (select g.origin, atoll.known_of(g) as covered from atoll.heard g where g.scope = 'global') o
      left join lateral (
          select coalesce((select b.heard from atoll.absence b where b.number = o.origin and b.since > coalesce(b.returned_at, '-infinity')), 0) as heard
           where atoll.is_absent(o.origin)) a on true
      left join (select origin, min((change->>'at')::bigint) - 1 as before from atoll.parked group by origin) p on p.origin = o.origin);

create or replace function atoll.unheard(policies jsonb, mine jsonb, theirs jsonb, known jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    col     text;
    at      bigint;
    policy  text;
    entries jsonb;
    t       jsonb := '{}';
    v       jsonb := '{}';
    x       jsonb := '{}';
    birth   bigint := case when not atoll.is_heard(known, (mine->>'b')::bigint) then (mine->>'b')::bigint end;
    death   bigint := case when not atoll.is_heard(known, (mine->>'d')::bigint) then (mine->>'d')::bigint end;
    epoch   bigint := (mine->>'e')::bigint;
begin
    for col, at in select key, value::bigint from jsonb_each_text(coalesce(mine->'t', '{}')) loop
        policy := policies->col->>'p';
        if policy in ('counter', 'set', 'document') then
            select jsonb_object_agg(e.key, e.value) into entries from jsonb_each(mine->'x'->col) e where not atoll.is_heard(known, (e.value->>0)::bigint);
            if entries is not null or not atoll.is_heard(known, at) then
                x := x || jsonb_build_object(col, coalesce(entries, '{}'));
                t := t || jsonb_build_object(col, case when atoll.is_heard(known, at) then (select max((e.value->>0)::bigint) from jsonb_each(entries) e) else at end);
            end if;
        elsif policy = 'first' then
            if not atoll.is_heard(known, coalesce((mine->'x'->col->>0)::bigint, at)) then
                x := x || jsonb_strip_nulls(jsonb_build_object(col, mine->'x'->col));
                t := t || jsonb_build_object(col, at);
            end if;
        elsif not atoll.is_heard(known, at) then
            t := t || jsonb_build_object(col, at);
            v := v || case when mine->'v' ? col then jsonb_build_object(col, mine->'v'->col) else '{}' end;
        end if;
    end loop;
    -- A deletion that the source has forgotten sets nothing apart there any more.
    if atoll.is_heard(known, epoch) then
        epoch := least(epoch, coalesce((theirs->>'e')::bigint, 0));
    end if;
    return jsonb_strip_nulls(jsonb_build_object('b', birth, 'd', death, 'e', nullif(epoch, 0))) || jsonb_build_object('t', t, 'v', v, 'x', x);
end $$;

create or replace function atoll.is_news(state jsonb) returns boolean
language sql immutable parallel safe
return state ? 'b' or state ? 'd' or state->'t' <> '{}';

-- Writes of this node that others have overruled while it was away.
create or replace function atoll.note_overruled(of_table text, key jsonb, policies jsonb, mine jsonb, news jsonb, theirs jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    latest constant bigint := atoll.latest(news);
begin
    if latest < (theirs->>'d')::bigint and latest > coalesce((mine->>'d')::bigint, 0) then
        perform atoll.note(of_table, key, null, 'delete', null, mine->'v', latest, null, (theirs->>'d')::bigint, 'the row was deleted later, while this node was away');
        return;
    end if;
    perform atoll.note(of_table, note_overruled.key, t.key, 'update', news->'v'->>t.key, null, t.value::bigint, theirs->'v'->>t.key, (theirs->'t'->>t.key)::bigint,
                       'a later write, made while this node was away')
       from jsonb_each_text(news->'t') t
      where not policies ? t.key and (theirs->'t'->>t.key)::bigint > t.value::bigint and news->'v'->>t.key is distinct from theirs->'v'->>t.key;
end $$;

-- A row that others deleted meanwhile and that a write of this node keeps. When they deleted it, nobody knows any more.
create or replace function atoll.note_outlived(of_table text, key jsonb, mine jsonb, known jsonb) returns void
language sql set search_path = pg_catalog
begin atomic
    select atoll.note(of_table, note_outlived.key, null, 'delete', null, null,
                      (select max(k.value::bigint) from jsonb_each_text(known) k where k.key <> atoll.me()::text), null, atoll.latest(mine),
                      'the row was deleted while this node was away, which wrote it meanwhile')
     where atoll.is_alive(mine) and atoll.is_heard(known, (mine->>'b')::bigint) and exists (select from jsonb_each_text(known) k where k.key <> atoll.me()::text);
end;

create or replace function atoll.return_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_return_row}}(atoll_key jsonb, theirs jsonb, known jsonb) returns void
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    t          {{table}};
    s          {{side}};
    mine       jsonb;
    atoll_news jsonb;
    atoll_row  jsonb;
    atoll_vals jsonb;
begin
    select m.* into t from {{table}} m where {{m_is_key}} for update;
    insert into {{side}} ({{keys}}) values ({{key_values}}) on conflict do nothing;
    select m.* into s from {{side}} m where {{m_is_key}} for update;
    select m.* into t from {{table}} m where {{m_is_key}} for update;
    mine := {{fn_read}}(s, t);
    atoll_news := atoll.unheard({{policies}}, mine, theirs, known);
    atoll_row := atoll.join_state({{policies}}, theirs, '{}');
    if exists (select from jsonb_object_keys(theirs->'t') k where not theirs->'v' ? k) then
        -- The row is out of the source's own scopes, which has kept its stamps only.
        atoll_row := atoll.join_state({{policies}}, theirs, mine);
    elsif atoll.is_news(atoll_news) then
        -- Where the source has only heard of a later write, it has forgotten the row, which comes back whole.
        if theirs ? 'b' or theirs ? 'd' then
            atoll_row := atoll.join_state({{policies}}, theirs, atoll_news);
        else
            atoll_row := atoll.join_state({{policies}}, theirs, mine);
            perform atoll.note_outlived({{name}}, atoll_key, mine, known);
        end if;
        perform atoll.note_overruled({{name}}, atoll_key, {{policies}}, mine, atoll_news, theirs);
    end if;
    perform {{fn_write}}(s, t, atoll_row, true);
    atoll_vals := atoll_row->'v';
    if atoll.is_news(atoll_news) and {{scope_of_vals}} <> 'local' then
        perform {{fn_tell}}(atoll_key, 'S', atoll_row, {{scope_of_vals}});
    end if;
end $body$;

-- A part of the copy. Rows that are the same here are only touched, rows that are new here come the fast way.
create or replace function {{fn_return}}(c atoll.change, known jsonb) returns void
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    r     record;
    other bigint[];
begin
    if c.op = 'I' and c.ats is not null and c.cols = array[{{col_names}}] then
        perform from {{table}} m join rows from ({{key_arrays}}) with ordinality r ({{keys}}, atoll_at, atoll_i) on {{m_is_r}} order by {{m_keys}} for update of m;
        with touched as (
            update {{side}} m set atoll_birth = m.atoll_birth
              from rows from ({{key_arrays}}) with ordinality r ({{keys}}, atoll_at, atoll_i)
             where {{m_is_r}} and m.atoll_birth = r.atoll_at and {{untouched}} returning r.atoll_i
        )
        select array_agg(i) into other from generate_series(1, c.n) i where i not in (select atoll_i from touched);
        if other is null then
            return;
        end if;
        select array_agg(atoll.picked(v, other) order by i) into c.vals from unnest(c.vals) with ordinality u (v, i);
        c.ats := atoll.picked(c.ats, other);
        c.n := cardinality(other);
        if not exists (select from {{side}} m join rows from ({{key_arrays}}) with ordinality r ({{keys}}, atoll_at, atoll_i) on {{m_is_r}}) then
            begin
                perform {{fn_merge}}(c);
                return;
            exception when sqlstate 'AT0FF' or unique_violation then null;
            end;
        end if;
    end if;
    for r in select row_key, delta from atoll.deltas(c, array[{{key_names}}], {{policies}})
              order by {{sort_by_key}}
    loop
        perform {{fn_return_row}}(r.row_key, r.delta, known);
    end loop;
end $body$;

-- Some pages of entries. Those that the copy has not touched since transaction `began` are rows that the source has
-- not, and those that were written here since are told to everybody. Says how many rows went and how many stayed.
create or replace function {{fn_sweep}}(atoll_from bigint, atoll_to bigint, r atoll.returning, out gone integer, out kept integer)
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    t          {{table}};
    s          {{side}};
    mine       jsonb;
    atoll_vals jsonb;
    atoll_age  constant integer := age(r.xid::xid);
    atoll_since constant bigint := r.stamp;
    is_old     boolean;
begin
    gone := 0;
    kept := 0;
    for s in select m.* from {{side}} m
              where m.ctid >= format('(%s,0)', atoll_from)::tid and m.ctid < format('(%s,0)', atoll_to)::tid
                and (age(m.xmin) >= atoll_age or greatest(m.atoll_birth, m.atoll_death{{m_stamps}}) > atoll_since
                     and atoll.stamp_node(greatest(m.atoll_birth, m.atoll_death{{m_stamps}})) = atoll.me())
    loop
        select m.* into t from {{table}} m where {{m_is_s}} for update;
        select age(m.xmin) >= atoll_age into is_old from {{side}} m where {{m_is_s}} for update;
        continue when is_old is null;
        select m.* into s from {{side}} m where {{m_is_s}};
        select m.* into t from {{table}} m where {{m_is_s}};
        mine := {{fn_read}}(s, t);
        atoll_vals := mine->'v';
        continue when {{scope_of_vals}} <> all (r.scopes);
        if not is_old or atoll.is_news(atoll.unheard({{policies}}, mine, '{}', r.known)) then
            if is_old then
                perform atoll.note_outlived({{name}}, {{key_of_s}}, mine, r.known);
            end if;
            perform {{fn_tell}}({{key_of_s}}, 'S', mine, {{scope_of_vals}});
            kept := kept + 1;
        else
            delete from {{table}} m where {{m_is_s}};
            delete from {{side}} m where {{m_is_s}};
            gone := gone + 1;
        end if;
    end loop;
    if gone > 0 and {{has_unique}} then
        perform {{fn_revive}}();
    end if;
end $body$;

$template$ $sql$;

create or replace function atoll.render_return(of_table text) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    side constant text := (select l.side from atoll.local_table l where l.name = of_table);
begin
    execute atoll.render(atoll.return_template(), atoll.variables(of_table) || jsonb_build_object(
        'fn_return_row', atoll.generated(side, 'return_row'), 'fn_return', atoll.generated(side, 'return'), 'fn_sweep', atoll.generated(side, 'sweep'),
        'key_arrays', (select string_agg(format('unnest(c.vals[%s]::%s[])', l.ordinal, l.wire), ', ' order by l.ordinal) from atoll.local_column l where l.tbl = of_table and l.is_key)
                      || ', unnest(c.ats::bigint[])'));
end $$;

-- Begins, or begins anew with another source. Copies that were on their way to others hold rows that may be gone.
create or replace function atoll.begin_return(from_source integer, by_token text, source_knows jsonb) returns void
language plpgsql security definer set search_path = pg_catalog as $$
begin
    with gone as (
        delete from atoll.change c where c.origin = atoll.me() and c.target is not null returning c.target
    )
    update atoll.progress set missed = true, misses = misses + 1 where peer in (select target from gone);
    insert into atoll.returning (token, source, known, scopes, xid, stamp)
    values (by_token, from_source, source_knows, atoll.scopes_shared_with(from_source), pg_current_xact_id(), atoll.now())
    on conflict (only_row) do update set token = excluded.token, source = excluded.source, known = excluded.known, scopes = excluded.scopes,
        xid = excluded.xid, stamp = excluded.stamp, began_at = excluded.began_at, arrived = null;
    perform atoll.render_return(l.name) from atoll.local_table l where l.kind = 'merge' and l.problem is null;
end $$;

-- A change that is meant for this node alone, part of a copy.
create or replace function atoll.take_copy(c atoll.change) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
declare
    r    atoll.returning := (select n from atoll.returning n);
    part text;
begin
    if c.tbl = '' and c.cols = '{returned}' then
        update atoll.returning set arrived = c.vals[2]::jsonb where source = c.origin and token = c.vals[1];
        return true;
    end if;
    select atoll.generated(l.side, 'return') into part from atoll.local_table l where l.name = c.tbl and l.kind = 'merge' and l.problem is null;
    if r.source is distinct from c.origin or r.arrived is not null or c.op not in ('I', 'S') or part is null or to_regproc(part) is null then
        return atoll_side.dispatch(c);
    end if;
    execute format('select %s($1, $2)', part) using atoll.adapt(c), r.known;
    if c.tbl = 'atoll.shared_table' then
        perform atoll.install_tables();
    end if;
    return true;
end $$;

-- The copy that a returning member asks for, followed by which tables it is of: one that could not be read here says
-- nothing about the rows there.
create or replace procedure atoll.seed_returning(for_peer integer, by_token text)
language plpgsql as $$
declare
    tables constant jsonb := (select jsonb_agg(l.name) from atoll.local_table l where l.problem is null and l.kind = 'merge');
begin
    if exists (select from atoll.change c where c.target = for_peer and c.origin = atoll.me() and c.cols = '{returned}' and c.vals[1] = by_token) then
        return;     -- it is on its way
    end if;
    insert into atoll.progress (peer) values (for_peer) on conflict do nothing;
    -- Only a copy that began for this return goes on: what an earlier one had passed already may be missing here.
    perform atoll.owe_seed(for_peer, exists (select from atoll.copying c where c.peer = for_peer and c.token = by_token));
    perform atoll.seed_step(for_peer);
    update atoll.copying set token = by_token where peer = for_peer;
    commit;
    call atoll.seed(for_peer);
    if exists (select from atoll.progress p where p.peer = for_peer and p.missed) then
        return;     -- the peer does not take it in; it will ask again
    end if;
    insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, target)
    select atoll.me(), nextval('atoll.change_seq'), '', 'S', atoll.now(), 0, '{returned}',
           array[by_token, (select coalesce(jsonb_agg(l.name), '[]') from atoll.local_table l where l.problem is null and tables ? l.name)::text], for_peer;
    commit;
end $$;

create or replace function atoll.sweep_pages(of_table text, first_page bigint, end_page bigint, out gone integer, out kept integer)
language plpgsql security definer set search_path = pg_catalog set session_replication_role = replica as $$
begin
    perform set_config('atoll.quiet', 'on', true);
    execute format('select s.gone, s.kept from atoll.returning r, %s($1, $2, r) s',
                   (select atoll.generated(l.side, 'sweep') from atoll.local_table l where l.name = of_table))
       into gone, kept using first_page, end_page;
    perform set_config('atoll.quiet', '', true);
end $$;

-- What is left to do once the copy is here.
create or replace procedure atoll.finish_return(inout gone bigint default 0, inout kept bigint default 0)
language plpgsql as $$
declare
    t    record;
    page bigint;
    done record;
begin
    for t in select l.name, l.side from atoll.returning r, atoll.local_table l
              where r.arrived ? l.name and l.problem is null and to_regproc(atoll.generated(l.side, 'sweep')) is not null
              order by l.name not like 'atoll.%', l.name loop
        page := 0;
        while page * current_setting('block_size')::bigint < pg_relation_size(to_regclass(format('atoll_side.%I', t.side))) loop
            select * into done from atoll.sweep_pages(t.name, page, page + 50);
            gone := gone + done.gone;
            kept := kept + done.kept;
            page := page + 50;
            commit;
        end loop;
        if t.name = 'atoll.shared_table' then
            perform atoll.install_tables();
            commit;
        end if;
    end loop;
    perform atoll.end_return();
    commit;
end $$;

-- It is over: everybody is told, after all that was told before.
create or replace function atoll.end_return() returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    f record;
begin
    if not exists (select from atoll.returning where arrived is not null) then
        return;
    end if;
    delete from atoll.returning;
    for f in select p.oid::regprocedure as name from atoll.local_table l, unnest(array['return_row', 'return', 'sweep']) part
               join pg_proc p on p.pronamespace = 'atoll_side'::regnamespace
              where format('atoll_side.%I', p.proname) = atoll.generated(l.side, part) loop
        execute format('drop function %s', f.name);
    end loop;
    update atoll.absence a set returned_at = greatest(clock_timestamp(), a.since)
     where a.since > coalesce(a.returned_at, '-infinity')
       and (a.number = atoll.me() or a.number in (select o.number from atoll.node o join atoll.node n on n.name = o.name where n.number = atoll.me()));
    update atoll.self set seeded_at = coalesce(seeded_at, clock_timestamp());
end $$;
