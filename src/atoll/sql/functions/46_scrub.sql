-- Scrubbing: a table's rows, read stretch by stretch in the order of its key and hashed, to be compared between nodes.
--
-- A row has two hashes. `stamps` is of when each part of it was last written (birth, death, epoch, column by column,
-- and whether it is set aside); `vals` is of what it shows, or keeps while it shows nothing. Every ordinary write
-- moves the stamps, so values that differ under equal stamps were written past the triggers.
-- Keys travel as the text of an array of texts. What is read is never more than the stretch.

-- A key's parts as typed values.
create or replace function atoll.key_values(of_table text, key text) returns text
language sql stable set search_path = pg_catalog
return (select string_agg(format('%L::%s', (key::text[])[i], type), ', ' order by i)
          from (select type, row_number() over (order by ordinal) as i from atoll.local_column where tbl = of_table and is_key) k);

-- Rows after one key and up to another, as a condition that an index on the key serves. A type from elsewhere has its
-- operators elsewhere.
drop function if exists atoll.key_range(text, text, text);
create or replace function atoll.key_range(of_table text, after text, upto text, alias text default 'm') returns text
language sql stable set search_path = pg_catalog
return (
    with k as (
        select count(*) as parts, string_agg(format('%s.%I', alias, name), ', ' order by ordinal) as cols, bool_and(equals = 'pg_catalog.=') as is_plain,
               min(regexp_replace(equals, '=$', '')) as place, string_agg(format('%s.%I::text', alias, name), ', ' order by ordinal) as texts
          from atoll.local_column where tbl = of_table and is_key
    ), how as (
        select case when is_plain then format('(%s) %%s (%%s)', cols)
                    when parts = 1 then format('%s operator(%s%%s) %%s', cols, place)
                    else format('array[%s]::text collate "C" %%s %%s', texts) end as form, is_plain or parts = 1 as is_typed from k
    )
    select coalesce(nullif(concat_ws(' and ',
               case when after <> '' then format(form, '>', case when is_typed then atoll.key_values(of_table, after) else quote_literal(after) end) end,
               case when upto is not null then format(form, '<=', case when is_typed then atoll.key_values(of_table, upto) else quote_literal(upto) end) end), ''), 'true')
      from how);

create or replace function atoll.key_order(of_table text, alias text) returns text
language sql stable set search_path = pg_catalog
return (select case when count(*) = 1 or bool_and(equals = 'pg_catalog.=') then string_agg(format('%s.%I', alias, name), ', ' order by ordinal)
                    else format('array[%s]::text collate "C"', string_agg(format('%s.%I::text', alias, name), ', ' order by ordinal)) end
          from atoll.local_column where tbl = of_table and is_key);

-- Rows that have one of these keys.
drop function if exists atoll.key_among(text, text[]);
create or replace function atoll.key_among(of_table text, keys text[], alias text default 'm') returns text
language sql stable set search_path = pg_catalog
return coalesce((
    select string_agg(c.condition, ' or ')
      from unnest(keys) u (key),
           lateral (select '(' || string_agg(format('%s.%I operator(%s) %L::%s', alias, k.name, k.equals, (u.key::text[])[k.i], k.type), ' and ') || ')' as condition
                      from (select name, equals, type, row_number() over (order by ordinal) as i from atoll.local_column where tbl = of_table and is_key) k) c), 'false');

-- The rows of a table that a condition names, as key, scope, stamps, vals, is_alive, odd. Odd are a row that no history
-- knows (unrecorded) and one that should be there and is not (vanished). One that was deleted so long ago that nodes may
-- begin to forget it (fading) is no part of a stretch.
create or replace function atoll.scrub_source(of_table text, condition text) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    t      atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    vars   jsonb;
    said   text := 'null';
begin
    if t.name is null then
        perform atoll.refuse('table-not-shared', format('table %s is not shared here', of_table));
    end if;
    vars := jsonb_build_object('table', t.name, 'side', format('atoll_side.%I', t.side), 'condition', condition,
        'keys', atoll.list(t.name, 'key', 'm.{c}'),
        'key', 'array[' || atoll.list(t.name, 'key', 'coalesce(a.{c}, b.{c})::text') || ']::text',
        'a_key', 'array[' || atoll.list(t.name, 'key', 'a.{c}::text') || ']::text',
        'same_key', atoll.list(t.name, 'key', 'a.{c} operator({=}) b.{c}', ' and '),
        'first_a', 'a.' || atoll.list(t.name, 'key', '{c}', ', a.'),
        'shown', (select 'array[' || string_agg(format('(a.atoll_r).%I::text', name), ', ' order by name collate "C") || ']::text' from atoll.local_column where tbl = t.name));
    vars := vars || jsonb_build_object('first_a', split_part(vars->>'first_a', ',', 1), 'first_b', 'b.' || substr(split_part(vars->>'first_a', ',', 1), 3));
    if t.kind = 'append' then
        return atoll.render($q$select {{a_key}} as key, {{scope}} as scope, ''::text as stamps, md5({{shown}}) as vals, true as is_alive, null::text as odd
            from (select {{keys}}, m.*::{{table}} as atoll_r from {{table}} m where {{condition}}) a$q$,
            vars || jsonb_build_object('scope', atoll.row_scope(t, '(a.atoll_r)')));
    end if;
    if t.scope_column is not null then
        said := format('coalesce((a.atoll_r).%1$I::text, (b.atoll_m).atoll_kept->>%1$L)', t.scope_column);
    end if;
    vars := vars || jsonb_build_object(
        'scope', case when t.scope_column is null then atoll.usual_scope(t) else format('atoll.scope_of(%s, %s)', said, atoll.usual_scope(t)) end,
        -- What a policy keeps may be written down or follow from the value; only read tells both alike.
        'kept', case when exists (select from atoll.local_column c where c.tbl = t.name and c.policy in ('counter', 'first', 'set', 'document'))
            then format('case when is_known then nullif(%s(atoll_m, atoll_r)->''x'', ''{}'')::text end', atoll.generated(t.side, 'read')) else 'null' end,
        'stamps', 'array[(b.atoll_m).atoll_birth, (b.atoll_m).atoll_death, (b.atoll_m).atoll_epoch, ((b.atoll_m).atoll_aside)::integer'
            || coalesce(', ' || atoll.list(t.name, 'value', 'greatest((b.atoll_m).{c}, (b.atoll_m).atoll_birth)'), '') || ']::text',
        'fading', ((atoll.clock_ms() - (extract(epoch from atoll.setting('tombstone_retention')::interval) * 500)::bigint) << 22) || '::bigint',
        'latest', 'greatest((b.atoll_m).atoll_birth' || coalesce(', ' || atoll.list(t.name, 'value', '(b.atoll_m).{c}'), '') || ')');
    return atoll.render($q$
        select key, scope, is_alive, case when is_known then md5(stamps) else 'none' end as stamps,
               md5(coalesce(shown, jsonb_strip_nulls((atoll_m).atoll_kept)::text, '') || coalesce({{kept}}, '')) as vals,
               case when shown is not null and not is_alive then 'unrecorded' when shown is null and is_alive and (atoll_m).atoll_kept is null then 'vanished'
                    when shown is null and not is_alive and (atoll_m).atoll_death < {{fading}} then 'fading' end as odd
          from (select {{key}} as key, {{scope}} as scope, {{first_b}} is not null as is_known,
                       coalesce((b.atoll_m).atoll_birth > coalesce((b.atoll_m).atoll_epoch, 0) and {{latest}} > coalesce((b.atoll_m).atoll_death, 0), false) as is_alive,
                       {{stamps}} as stamps, case when {{first_a}} is not null then {{shown}} end as shown, a.atoll_r, b.atoll_m
                  from (select {{keys}}, m.*::{{table}} as atoll_r from {{table}} m where {{condition}}) a
                  full join (select {{keys}}, m.*::{{side}} as atoll_m from {{side}} m where {{condition}}) b on {{same_key}}
                offset 0) r$q$, vars);
end $$;

create or replace function atoll.shape_hash(of_table text) returns text
language sql stable set search_path = pg_catalog
return (select md5(string_agg(name || ' ' || policy, ',' order by name collate "C")) from atoll.local_column where tbl = of_table);

-- Where the stretch after a key ends: where it ended before, unless it has grown or shrunk since; null is the end.
create or replace function atoll.slice_end(of_table text, after text, most integer) returns text
language plpgsql stable set search_path = pg_catalog set enable_seqscan = off as $$
declare
    known atoll.slice := (select s from atoll.slice s where s.tbl = of_table and md5(s.after) = md5(slice_end.after) and s.after = slice_end.after);
    t     atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    part  text;
    upto  text;
begin
    if known.n between most / 4 and 2 * most or known.n <= 2 * most and known.upto is null then
        return known.upto;
    end if;
    part := format('(select %s from %%s m where %s order by %s limit %s)', atoll.list(of_table, 'key', 'm.{c}'),
                   atoll.key_range(of_table, after, null), atoll.key_order(of_table, 'm'), most);
    execute format('select array[%s]::text from (%s%s) r order by %s offset %s limit 1', atoll.list(of_table, 'key', 'r.{c}::text'), format(part, t.name),
                   case when t.kind = 'merge' then ' union ' || format(part, format('atoll_side.%I', t.side)) else '' end, atoll.key_order(of_table, 'r'), most - 1)
       into upto;
    return upto;
end $$;

-- A stretch, hashed: what is in some scopes, and all of it.
create or replace function atoll.slice(of_table text, after text, upto text, scopes text[])
returns table (n bigint, stamps text, vals text, n_all bigint, stamps_all text, vals_all text, odd bigint, shape text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off as $$
begin
    return query execute format($f$
        select count(*) filter (where fits), to_hex(coalesce(bit_xor(s) filter (where fits), 0)), to_hex(coalesce(bit_xor(v) filter (where fits), 0)),
               count(*), to_hex(coalesce(bit_xor(s), 0)), to_hex(coalesce(bit_xor(v), 0)), count(odd), atoll.shape_hash(%L)
          from (select scope = any ($1) as fits, odd, ('x' || left(md5(key || stamps), 16))::bit(64)::bigint as s, ('x' || left(md5(key || vals), 16))::bit(64)::bigint as v
                  from (%s) r where odd is distinct from 'fading') r $f$, of_table, atoll.scrub_source(of_table, atoll.key_range(of_table, after, upto))) using scopes;
end $$;

-- The rows of a stretch one by one. Says nothing of rows beyond `most`.
create or replace function atoll.slice_rows(of_table text, after text, upto text, scopes text[], most integer)
returns table (key text, stamps text, vals text, is_alive boolean, odd text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off as $$
begin
    return query execute format('select key, stamps, vals, is_alive, odd from (%s) r where scope = any ($1) and odd is distinct from ''fading'' limit %s',
        atoll.scrub_source(of_table, atoll.key_range(of_table, after, upto)), most) using scopes;
end $$;

-- Single rows. Those that are not known here are left out.
create or replace function atoll.slice_keys(of_table text, keys text[], scopes text[])
returns table (key text, stamps text, vals text, is_alive boolean, odd text, scope text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off as $$
begin
    return query execute format('select key, stamps, vals, is_alive, odd, scope from (%s) r where scope = any ($1)',
        atoll.scrub_source(of_table, atoll.key_among(of_table, keys))) using scopes;
end $$;

-- Remembers a stretch that was found right.
create or replace function atoll.note_slice(of_table text, after text, upto text, shape text, n bigint, stamps text, vals text) returns void
language sql security definer set search_path = pg_catalog
begin atomic
    insert into atoll.slice (tbl, after, upto, shape, n, stamps, vals) values (of_table, note_slice.after, note_slice.upto, note_slice.shape, note_slice.n, note_slice.stamps, note_slice.vals)
    on conflict (tbl, md5(after)) do update set after = excluded.after, upto = excluded.upto, shape = excluded.shape, n = excluded.n, stamps = excluded.stamps, vals = excluded.vals, seen_at = clock_timestamp();
end;

-- Of these rows, those in a stretch whose values have changed since it was found right while its stamps have not:
-- somebody wrote past the triggers, on this node.
create or replace function atoll.altered(of_table text, keys text[]) returns setof text
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    k      text;
    known  atoll.slice;
    seen   record;
    judged jsonb := '{}';       -- each stretch is read once
begin
    foreach k in array keys loop
        execute format('select s.* from atoll.slice s where s.tbl = %L and s.shape = atoll.shape_hash(s.tbl) and %s order by s.seen_at desc limit 1',
                       of_table, atoll.key_within(of_table, k)) into known;
        continue when known.id is null;
        if not judged ? known.id::text then
            select * into seen from atoll.slice(of_table, known.after, known.upto, '{}');
            judged := judged || jsonb_build_object(known.id, seen.stamps_all = known.stamps and seen.n_all = known.n and seen.vals_all <> known.vals);
        end if;
        if (judged->>(known.id::text))::boolean then
            return next k;
        end if;
    end loop;
end $$;

-- Is a key within the stretch s?
create or replace function atoll.key_within(of_table text, key text) returns text
language sql stable set search_path = pg_catalog
return (
    with k as (
        select count(*) as parts, bool_and(equals = 'pg_catalog.=') as is_plain, min(regexp_replace(equals, '=$', '')) as place,
               string_agg(format('(s.after::text[])[%s]::%s', i, type), ', ' order by i) as low, string_agg(format('(s.upto::text[])[%s]::%s', i, type), ', ' order by i) as high
          from (select equals, type, row_number() over (order by ordinal) as i from atoll.local_column where tbl = of_table and is_key) c
    ), form as (
        select case when is_plain then format('(%s) %%s (%%s)', atoll.key_values(of_table, key))
                    when parts = 1 then format('%s operator(%s%%s) %%s', atoll.key_values(of_table, key), place)
                    else format('%L collate "C" %%s %%s', key) end as form,
               case when is_plain or parts = 1 then low else 's.after' end as low, case when is_plain or parts = 1 then high else 's.upto' end as high from k
    )
    select format('case when s.after = %L then true else %s end and case when s.upto is null then true else %s end', '', format(form, '>', low), format(form, '<=', high)) from form);

-- The states of rows, for a node that has them otherwise.
create or replace function atoll.slice_states(of_table text, keys text[], scopes text[])
returns table (key text, state jsonb)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off as $$
declare
    t constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
begin
    for key in select r.key from atoll.slice_keys(of_table, keys, scopes) r loop
        execute format(case t.kind when 'append' then 'select %1$s from %2$s m where %5$s'
                                   else 'select %4$s(b.*, m.*) from %3$s b left join %2$s m on %6$s where %7$s' end,
                       atoll.jsonb_of(t.name, 'all', 'm'), t.name, format('atoll_side.%I', t.side), atoll.generated(t.side, 'read'),
                       atoll.key_among(t.name, array[key]), atoll.list(t.name, 'key', 'b.{c} operator({=}) m.{c}', ' and '),
                       atoll.key_among(t.name, array[key], 'b')) into state;
        if state is not null then
            return next;
        end if;
    end loop;
end $$;

-- What a row shows, for the list of repairs.
create or replace function atoll.shown_row(of_table text, key text) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    shown jsonb;
begin
    execute format('select %s from %s m where %s', atoll.jsonb_of(of_table, 'all', 'm'), of_table, atoll.key_among(of_table, array[key])) into shown;
    return shown;
end $$;

-- Makes a row here what it is on another node, if it still is as it was when that was decided.
--   join    both states are joined, as if the other's had just arrived
--   value   the stamps agree and this node's values are not to be trusted: the other's take their place
-- Nothing is told to others by it: they compare for themselves. What was here is listed in atoll.repair.
create or replace function atoll.repair_row(of_table text, key text, how text, like_node integer, state jsonb, seen_stamps text, seen_vals text, why text) returns boolean
language plpgsql security definer set search_path = pg_catalog set session_replication_role = replica as $$
begin
    return atoll.repair_row_aloud(of_table, key, how, like_node, state, seen_stamps, seen_vals, why);
end $$;

create or replace function atoll.repair_row_aloud(of_table text, key text, how text, like_node integer, state jsonb, seen_stamps text, seen_vals text, why text) returns boolean
language plpgsql security definer set search_path = pg_catalog set enable_seqscan = off as $$
declare
    t    constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    here constant text := atoll.key_among(of_table, array[key]);
    keys constant text[] := (select array_agg(name order by ordinal) from atoll.local_column where tbl = of_table and is_key);
    quiet constant text := coalesce(current_setting('atoll.quiet', true), '');
    scopes constant text[] := array[atoll.here(), atoll.here_only(), 'global', 'local'];
    seen record;
    was  jsonb;
    c    atoll.change;
begin
    -- Lock order, as everywhere: the table's row, then its entry.
    execute format('select from %s m where %s for update', t.name, here);
    if t.kind = 'merge' then
        execute format('select from atoll_side.%I m where %s for update', t.side, here);
    end if;
    select * into seen from atoll.slice_keys(of_table, array[key], scopes);
    if (coalesce(seen.stamps, ''), coalesce(seen.vals, '')) <> (coalesce(seen_stamps, ''), coalesce(seen_vals, '')) then
        return false;
    end if;
    was := atoll.shown_row(of_table, key);
    perform set_config('atoll.quiet', 'on', true);
    if how = 'value' and t.kind = 'append' then
        execute format('delete from %s m where %s', t.name, here);
    end if;
    if how = 'value' and t.kind = 'merge' then
        execute format('select %s(b.*, m.*, $1, true) from atoll_side.%I b left join %s m on %s where %s', atoll.generated(t.side, 'write'), t.side, t.name,
                       atoll.list(t.name, 'key', 'b.{c} operator({=}) m.{c}', ' and '), atoll.key_among(t.name, array[key], 'b')) using state;
    else
        c.origin := like_node; c.seq := 0; c.version := 1; c.tbl := of_table; c.at := atoll.now(); c.n := 1; c.prev := 0; c.scope := 'global';
        if t.kind = 'append' then
            c.op := 'I';
            select array_agg(name order by ordinal), array_agg(array[state->>name]::text order by ordinal) into c.cols, c.vals from atoll.local_column where tbl = of_table;
        else
            c.op := 'S';
            c.cols := keys || '@state'::text;
            c.vals := (select array_agg(array[k]::text order by i) from unnest(key::text[]) with ordinality u (k, i)) || array[state::text]::text;
        end if;
        perform atoll_side.dispatch_slowly(c);
    end if;
    perform set_config('atoll.quiet', quiet, true);
    if not exists (select from atoll.slice_keys(of_table, array[key], scopes) r where (r.stamps, r.vals) is distinct from (seen_stamps, seen_vals))
       and exists (select from atoll.slice_keys(of_table, array[key], scopes)) then
        return false;   -- it had all of that already: the other node is to be mended
    end if;
    insert into atoll.repair (tbl, key, kind, like_node, was, became, why) values (of_table, key, how, like_node, was, atoll.shown_row(of_table, key), why);
    return true;
end $$;

-- A row that was written past the triggers and that nobody knows is somebody's data: from now on it counts as written.
create or replace function atoll.adopt_row(of_table text, key text, seen_stamps text, seen_vals text, why text) returns boolean
language plpgsql security definer set search_path = pg_catalog set enable_seqscan = off as $$
declare
    t    constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    here constant text := atoll.key_among(of_table, array[key]);
    seen record;
begin
    execute format('select from %s m where %s for update', t.name, here);
    select * into seen from atoll.slice_keys(of_table, array[key], array[atoll.here(), atoll.here_only(), 'global', 'local']);
    if seen.odd is distinct from 'unrecorded' or (seen.stamps, seen.vals) <> (seen_stamps, seen_vals) then
        return false;
    end if;
    execute format('select %s(null::%s, m) from %s m where %s', atoll.generated(t.side, 'absorb'), t.name, t.name, here);
    insert into atoll.repair (tbl, key, kind, became, why) values (of_table, key, 'adopt', atoll.shown_row(of_table, key), why);
    return true;
end $$;

-- A role that may not switch keeps capture quiet instead, which repair_row_aloud does by itself.
do $shells$
begin
    if not atoll.may_switch() then
        create or replace function atoll.repair_row(of_table text, key text, how text, like_node integer, state jsonb, seen_stamps text, seen_vals text, why text) returns boolean
        language sql security definer set search_path = pg_catalog
        return atoll.repair_row_aloud(of_table, key, how, like_node, state, seen_stamps, seen_vals, why);
    end if;
end $shells$;

-- The scopes that two nodes have in common.
create or replace function atoll.scopes_shared_with(peer integer) returns text[]
language sql stable set search_path = pg_catalog
return (select array_agg(s) from unnest(atoll.scopes_of(peer)) s where s = any (atoll.scopes_of(atoll.me())));

-- Which tables may have rows in common with others, those first that were written most since the numbers given.
create or replace function atoll.tables_to_scrub() returns table (name text, kind text, shape text, writes bigint)
language sql stable security definer set search_path = pg_catalog
begin atomic
    select t.name, t.kind, atoll.shape_hash(t.name),
           coalesce((select sum(pg_stat_get_tuples_inserted(p.relid) + pg_stat_get_tuples_updated(p.relid) + pg_stat_get_tuples_deleted(p.relid))
                       from pg_partition_tree(t.relid) p), pg_stat_get_tuples_inserted(t.relid) + pg_stat_get_tuples_updated(t.relid) + pg_stat_get_tuples_deleted(t.relid), 0)::bigint
      from atoll.local_table t
     where t.problem is null and (t.scope in ('global', 'region') or t.scope_column is not null)
     order by t.name;
end;

create or replace function atoll.forget_repairs() returns void
language sql security definer set search_path = pg_catalog
begin atomic
    delete from atoll.repair where at < now() - atoll.setting('conflict_retention')::interval
        or id <= (select max(id) from atoll.repair) - atoll.setting('conflict_rows_max')::bigint;
end;
