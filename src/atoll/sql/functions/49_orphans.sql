-- Orphans: rows whose foreign key points to a parent that is not there.
--
-- Foreign keys do not act where changes arrive, so a child that was written on one node may meet its parent's deletion
-- on another. find_orphans walks a table in stretches and lists such children, review_orphans looks at the listed ones
-- again, and handle_orphans does what the table's rule says, once everything that members had written when the orphan was
-- seen has come here.
--
-- What is done is dated so that it loses to whatever this node has not seen: a removal to the moment as of which the
-- node knows everything, a restored parent to the tick after its death. So nodes may all act at once, and an
-- application that repairs the same orphan in its own way at the same time wins.

-- The foreign keys from a shared table to shared tables; columns in pairs, in the order of the parent's key if it is that.
create or replace function atoll.references_of(of_table text)
returns table (name text, parent text, cols text[], parent_cols text[], types text[], ops text[], is_full boolean, del "char", set_cols text[], is_key boolean)
language sql stable security definer set search_path = pg_catalog
begin atomic
    select k.conname::text, p.name, array_agg(a.attname::text order by pk.ordinal nulls last, u.i), array_agg(b.attname::text order by pk.ordinal nulls last, u.i),
           array_agg(format_type(a.atttypid, -1) order by pk.ordinal nulls last, u.i),
           array_agg(format('%I.%s', n.nspname, o.oprname) order by pk.ordinal nulls last, u.i), k.confmatchtype = 'f', k.confdeltype,
           (select array_agg(s.attname::text order by s.attnum) from pg_attribute s where s.attrelid = k.conrelid
               and s.attnum = any (coalesce((to_jsonb(k)->>'confdelsetcols')::text::int2[], k.conkey))),
           bool_and(pk.name is not null) and count(*) = (select count(*) from atoll.local_column c where c.tbl = p.name and c.is_key)
      from atoll.local_table t
      join pg_constraint k on k.conrelid = t.relid and k.contype = 'f' and k.conparentid = 0 and coalesce((to_jsonb(k)->>'conenforced')::boolean, true)
      join atoll.local_table p on p.relid = k.confrelid and p.problem is null
      cross join lateral unnest(k.conkey, k.confkey, k.conpfeqop) with ordinality u (child, parent, op, i)
      join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.child
      join pg_attribute b on b.attrelid = k.confrelid and b.attnum = u.parent
      join pg_operator o on o.oid = u.op
      join pg_namespace n on n.oid = o.oprnamespace
      left join atoll.local_column pk on pk.tbl = p.name and pk.name = b.attname and pk.is_key
     where t.name = of_table and t.problem is null
     group by k.oid, k.conname, p.name, k.confmatchtype, k.confdeltype, k.conrelid, k.conkey, to_jsonb(k)
     order by k.conname;
end;

-- The condition under which row m lacks the parent that it names. A null means that it names none, as the constraint has it.
create or replace function atoll.lacks_parent(cols text[], parent text, parent_cols text[], ops text[], is_full boolean) returns text
language sql immutable set search_path = pg_catalog
return (select '(' || string_agg(format('m.%I is not null', c), case when is_full then ' or ' else ' and ' end) || ')'
            || format(' and not exists (select from %s p where %s)', parent, string_agg(format('p.%I operator(%s) m.%I', pc, op, c), ' and '))
          from unnest(cols, parent_cols, ops) u (c, pc, op));

create or replace function atoll.texts_of(cols text[]) returns text
language sql immutable set search_path = pg_catalog
return (select 'array[' || string_agg(format('m.%I::text', c), ', ' order by i) || ']::text' from unnest(cols) with ordinality u (c, i));

-- What is known here of the parent that row m lacks:
--   deleted        somebody deleted it                          set aside      a unique key keeps it out of its table
--   missing        it should be here and nothing is known of it on its way     some of it is here, and the rest will come
--   out of scope   it may be somewhere that this node does not see
create or replace function atoll.parent_fate(parent text, parent_cols text[], cols text[], ops text[], is_key boolean) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    t      constant atoll.local_table := (select l from atoll.local_table l where l.name = parent);
    silent constant text := quote_literal(case when t.scope = 'global' and t.scope_column is null then 'missing' else 'out of scope' end);
begin
    if t.kind = 'append' then
        return silent;
    elsif not is_key then
        return (select format('case when exists (select from atoll_side.%I b where b.atoll_aside and %s) then ''set aside'' else %s end', t.side,
                              string_agg(case when k.is_key then format('b.%I operator(%s) m.%I', u.pc, u.op, u.c)
                                              else format('b.atoll_kept->>%L = m.%I::text', u.pc, u.c) end, ' and '), silent)
                  from unnest(cols, parent_cols, ops) u (c, pc, op) join atoll.local_column k on k.tbl = parent and k.name = u.pc);
    end if;
    return format('coalesce((select case when b.atoll_aside then ''set aside''%s when b.atoll_death > coalesce(%s, 0) then ''deleted'' else ''on its way'' end from atoll_side.%I b where %s), %s)',
        case when t.scope_column is not null then format(' when not atoll.admits(atoll.scope_of(b.atoll_kept->>%L, %s)) then ''out of scope''', t.scope_column, atoll.usual_scope(t)) else '' end,
        'greatest(b.atoll_birth' || coalesce(', ' || atoll.list(parent, 'value', 'b.{c}'), '') || ')', t.side,
        (select string_agg(format('b.%I operator(%s) m.%I', pc, op, c), ' and ') from unnest(cols, parent_cols, ops) u (c, pc, op)), silent);
end $$;

-- What a rule says about an orphan; null where nothing is to be done. `del` is the constraint's ON DELETE. What to follow is only
-- known where the constraint names the parent's key: otherwise the parent may merely have changed its value.
create or replace function atoll.orphan_will(policy text, del "char", is_key boolean, why text) returns text
language sql immutable
return case
    when why not in ('deleted', 'missing') or policy = 'report' then null
    when policy in ('remove', 'restore') then policy
    when not is_key then null
    else case del when 'c' then 'remove' when 'n' then 'set null' when 'd' then 'set default' else 'restore' end
end;

-- Looks at the stretch of a table after a key, `most` rows of it, and lists the orphans there, as far as there is room in
-- the list. Says where the stretch ended; null is the end of the table. Of those whose parent may be elsewhere, which can
-- be most of a table, a hundred of each foreign key are listed.
create or replace function atoll.find_orphans(of_table text, after text, most integer, room integer, out upto text, out listed integer)
language plpgsql security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    r    record;
    n    integer;
    fate text;
    space integer;
    is_away boolean;
    keys constant text := 'array[' || atoll.list(of_table, 'key', 'm.{c}::text') || ']::text';
begin
    listed := 0;
    execute format('select %s from %s m where %s order by %s offset %s limit 1', keys, of_table, atoll.key_range(of_table, after, null),
                   atoll.key_order(of_table, 'm'), most - 1) into upto;
    for r in select * from atoll.references_of(of_table) loop
        fate := atoll.parent_fate(r.parent, r.parent_cols, r.cols, r.ops, r.is_key);
        foreach is_away in array case when strpos(fate, 'out of scope') > 0 then '{f,t}' else '{f}' end::boolean[] loop
            space := case when is_away then 100 - (select count(*) from atoll.orphan o where o.tbl = of_table and o.reference = r.name and o.why = 'out of scope' and o.done is null)
                          else room - listed end;
            continue when space <= 0;
            execute format('insert into atoll.orphan (tbl, key, reference, parent, parent_key, why, since) select %L, s.key, %L, %L, s.parent_key, s.why, atoll.now()
                              from (select %s as key, %s as parent_key, %s as why from %s m where %s and %s) s where (s.why = ''out of scope'') = $1 limit $2 on conflict do nothing',
                           of_table, r.name, r.parent, keys, atoll.texts_of(r.cols), fate, of_table, atoll.key_range(of_table, after, upto),
                           atoll.lacks_parent(r.cols, r.parent, r.parent_cols, r.ops, r.is_full)) using is_away, space;
            get diagnostics n = row_count;
            listed := listed + n;
        end loop;
    end loop;
end $$;

-- Looks at the listed orphans again: those that are none any more go, the others say what is known of their parents. Also
-- forgets what was done long ago. Says how many are left whose parent should be here.
create or replace function atoll.review_orphans() returns integer
language plpgsql security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off as $$
declare
    o record;
    r record;
begin
    for o in select distinct tbl, reference from atoll.orphan where done is null loop
        select * into r from atoll.references_of(o.tbl) f where f.name = o.reference;
        if r.name is null then
            delete from atoll.orphan where tbl = o.tbl and reference = o.reference and done is null;
            continue;
        end if;
        execute format($f$
            with look as materialized (
                select o.id, s.parent_key, s.why from atoll.orphan o
                  left join lateral (select %1$s as parent_key, %2$s as why from %3$s m where %4$s and %5$s) s on true
                 where o.tbl = %6$L and o.reference = %7$L and o.done is null
            ), gone as (
                delete from atoll.orphan o using look l where l.id = o.id and l.parent_key is null
            )
            update atoll.orphan o set why = l.why, parent_key = l.parent_key, parent = %8$L,
                   since = case when o.parent_key = l.parent_key then o.since else atoll.now() end
              from look l where l.id = o.id and (l.why, l.parent_key, %8$L) is distinct from (o.why, o.parent_key, o.parent) and l.parent_key is not null $f$,
            atoll.texts_of(r.cols), atoll.parent_fate(r.parent, r.parent_cols, r.cols, r.ops, r.is_key), o.tbl,
            (select string_agg(format('m.%I operator(%s) ((o.key::text[])[%s])::%s', name, equals, i, type), ' and ')
               from (select name, equals, type, row_number() over (order by ordinal) as i from atoll.local_column where tbl = o.tbl and is_key) k),
            atoll.lacks_parent(r.cols, r.parent, r.parent_cols, r.ops, r.is_full), o.tbl, o.reference, r.parent);
    end loop;
    delete from atoll.orphan where done is not null and (done_at < now() - atoll.setting('conflict_retention')::interval
        or id <= (select max(id) from atoll.orphan) - atoll.setting('conflict_rows_max')::bigint);
    return (select count(*)::integer from atoll.orphan where done is null and why <> 'out of scope');
end $$;

-- Does what the rules say about orphans that last, `most` of them. Parents come back first: their other children need
-- not go then. Says how many were dealt with.
create or replace function atoll.handle_orphans(most integer default 100) returns integer
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '2s' as $$
declare
    heard  constant bigint := atoll.heard_up_to();
    o      record;
    done   integer := 0;
    failed text;
begin
    set constraints all immediate;  -- what an application deferred runs as the table's owner too
    for o in select w.*, r.del, r.set_cols
               from (select p.*, f.policy from atoll.orphan p join atoll.orphan_rule f using (tbl)
                      where p.done is null and p.since < heard and p.retry_at <= clock_timestamp() and f.policy <> 'report'
                        and not exists (select from atoll.parked k where k.tbl in (p.tbl, p.parent))) p
               cross join lateral (select * from atoll.references_of(p.tbl) f where f.name = p.reference) r
               cross join lateral (select p.*, atoll.orphan_will(p.policy, r.del, r.is_key, p.why) as will) w
              where w.will is not null order by w.will <> 'restore', w.retry_at, w.id limit most
    loop
        begin
            if o.will = 'restore' then
                perform atoll.restore_row(o.parent, o.parent_key);
            elsif not atoll.mend_orphan(o.tbl, o.key, o.reference, o.parent_key, o.will, o.set_cols, o.since, heard) then
                update atoll.orphan p set retry_at = clock_timestamp() where p.id = o.id;   -- others come first
                continue;
            end if;
            update atoll.orphan p set done_at = clock_timestamp(), problem = null,
                   done = case o.will when 'restore' then 'parent restored' when 'remove' then 'removed' else o.will end where p.id = o.id;
            done := done + 1;
        exception when others then
            get stacked diagnostics failed = message_text;
            update atoll.orphan p set problem = failed, tries = p.tries + 1,
                   retry_at = clock_timestamp() + least(interval '1 second' * 2 ^ least(p.tries, 12), interval '5 minutes') where p.id = o.id;
        end;
    end loop;
    return done;
end $$;

-- Removes one orphan, or takes its reference away, as its table's owner would: constraints and triggers act. What was there
-- is listed with the conflicts, and can be reverted. Says false where the row is no such orphan any more, or was written so
-- lately that somebody may have written it too.
create or replace function atoll.mend_orphan(of_table text, of_key text, of_reference text, of_parent text, how text, set_cols text[], since bigint, heard bigint) returns boolean
language plpgsql security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres' set bytea_output = 'hex'
set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' set xmlbinary = 'base64' set enable_seqscan = off as $$
declare
    t      constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    here   constant text := atoll.key_among(of_table, array[of_key]);
    r      constant record := (select f from atoll.references_of(of_table) f where f.name = of_reference);
    clock  constant text := coalesce(current_setting('atoll.clock_stands_at_ms', true), '');
    oldest constant bigint := atoll.clock_ms() - (extract(epoch from atoll.setting('tombstone_retention')::interval) * 500)::bigint;
    was    jsonb;
    latest bigint;
    became bigint;
    remains boolean;
begin
    if t.kind = 'append' then
        perform atoll.refuse('append-only', format('cannot remove rows of append table %s', t.name), state => 'AT003');
    end if;
    execute format('select %s from %s m where %s and %s and %s = $1 for update', atoll.jsonb_of(t.name, 'value', 'm'), t.name, here,
                   atoll.lacks_parent(r.cols, r.parent, r.parent_cols, r.ops, r.is_full), atoll.texts_of(r.cols)) into was using of_parent;
    if was is null then
        return false;
    end if;
    latest := atoll.latest_of(t, of_key);
    if coalesce(latest, 0) + 2 * atoll.tick() > heard then
        return false;
    end if;
    -- No write that this node has not seen is older than this; and the deletion is not so old that nodes may forget it.
    perform set_config('atoll.clock_stands_at_ms', greatest(since >> 22, oldest)::text, true);
    perform atoll.run_as_owner(t.relid, case when how = 'remove' then format('delete from %s m where %s', t.name, here)
        else format('update %s m set %s where %s', t.name, (select string_agg(format('%I = %s', c, case how when 'set null' then 'null' else 'default' end), ', ') from unnest(set_cols) c), here) end);
    perform set_config('atoll.clock_stands_at_ms', clock, true);
    execute format('select true from %s m where %s and %s and %s = $1', t.name, here, atoll.lacks_parent(r.cols, r.parent, r.parent_cols, r.ops, r.is_full),
                   atoll.texts_of(r.cols)) into remains using of_parent;
    if remains then
        perform atoll.refuse('orphan-remains', format('could not %s for row %s of %s: it is an orphan still', how, of_key, t.name), state => 'AT002');
    end if;
    became := atoll.latest_of(t, of_key);
    insert into atoll.conflict (tbl, key, col, kind, lost_value, lost_row, lost_stamp, won_stamp, why)
    select of_table, (select jsonb_object(array_agg(k.name order by k.ordinal), of_key::text[]) from atoll.local_column k where k.tbl = of_table and k.is_key),
           c, 'orphan', was->>c, case when c is null then was end, latest, became,
           format('its parent %s %s is gone; the rule: %s', r.parent, of_parent, how)
      from unnest(case when how = 'remove' then array[null]::text[] else set_cols end) c
    on conflict do nothing;
    return true;
end $$;

-- The stamp of the latest write of a row, its deletion included.
create or replace function atoll.latest_of(t atoll.local_table, of_key text) returns bigint
language plpgsql stable set search_path = pg_catalog set enable_seqscan = off as $$
declare
    latest bigint;
begin
    execute format('select greatest(m.atoll_birth, m.atoll_death%s) from atoll_side.%I m where %s', coalesce(', ' || atoll.list(t.name, 'value', 'm.{c}'), ''),
                   t.side, atoll.key_among(t.name, array[of_key])) into latest;
    return latest;
end $$;

-- Brings a deleted row back with its last values, and before it whatever it refers to itself: a row that would be an
-- orphan stays away. Only one column counts as written, a tick after the deletion. So what two nodes bring back is one
-- row, its counters go on, and every write that they have not seen is later.
create or replace function atoll.restore_row(of_table text, of_key text, depth integer default 0) returns void
language plpgsql security definer set search_path = pg_catalog set enable_seqscan = off set session_replication_role = replica as $$
declare
    t      constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    side   constant text := format('atoll_side.%I', t.side);
    its    constant text := format('row %s of %s', of_key, of_table);
    here   constant text := atoll.key_among(of_table, array[of_key]);
    quiet  constant text := coalesce(current_setting('atoll.quiet', true), '');
    key    jsonb;
    state  jsonb;
    scope  text;
    r      record;
    needs  text;
    is_here boolean;
begin
    if depth > 20 then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: it has too many ancestors', its), state => 'AT002');
    elsif t.kind = 'append' then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: nothing is known of it here', its), state => 'AT002');
    end if;
    execute format('select from %s m where %s for update', t.name, here);
    execute format('select from %s m where %s for update', side, here);
    execute format('select %s(b.*, m.*), m.%I is not null from %s b left join %s m on %s where %s', atoll.generated(t.side, 'read'),
                   (select c.name from atoll.local_column c where c.tbl = t.name and c.is_key limit 1), side, t.name,
                   atoll.list(t.name, 'key', 'b.{c} operator({=}) m.{c}', ' and '), atoll.key_among(of_table, array[of_key], 'b')) into state, is_here;
    if is_here then
        return;
    elsif state is null then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: nothing is known of it here', its), state => 'AT002');
    elsif atoll.is_alive(state) then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: it is not deleted', its), state => 'AT002');
    elsif coalesce((state->>'b')::bigint <= coalesce((state->>'e')::bigint, 0), true)
       or exists (select from jsonb_object_keys(state->'t') c where not state->'v' ? c) then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: its last values are not here', its), state => 'AT002');
    end if;
    execute 'select atoll.scope_of($1, ' || atoll.usual_scope(t) || ')' into scope using state->'v'->>t.scope_column;
    if not atoll.admits(scope) then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: it may not be here', its), state => 'AT002');
    end if;
    select jsonb_object(array_agg(k.name order by k.ordinal), of_key::text[]) into key from atoll.local_column k where k.tbl = of_table and k.is_key;
    for r in select * from atoll.references_of(of_table) loop
        execute format('select %s from (select %s) m where %s', atoll.texts_of(r.cols), atoll.list(of_table, 'all', '($1->>{l})::{t} as {c}'),
                       atoll.lacks_parent(r.cols, r.parent, r.parent_cols, r.ops, r.is_full)) into needs using key || (state->'v');
        continue when needs is null or r.parent = of_table and r.is_key and needs = of_key;
        if not r.is_key then
            perform atoll.refuse('restore-impossible', format('could not bring back %s: its own parent in %s is gone', its, r.parent), state => 'AT002');
        end if;
        perform atoll.restore_row(r.parent, needs, depth + 1);
    end loop;
    state := atoll.revived(of_table, state);
    perform set_config('atoll.quiet', 'on', true);
    execute format('select %s(m.*, null::%s, $1, true) from %s m where %s', atoll.generated(t.side, 'write'), t.name, side, here) using state;
    perform set_config('atoll.quiet', quiet, true);
    execute format('select exists (select from %s m where %s)', t.name, here) into is_here;
    if not is_here then
        perform atoll.refuse('restore-impossible', format('could not bring back %s: another row claims its unique key', its), state => 'AT002');
    end if;
    execute format('select %s($1, ''S'', $2, $3)', atoll.generated(t.side, 'tell')) using key, state, scope;
end $$;

-- The state of a deleted row as if one of its columns had been written, unchanged, right after the deletion.
create or replace function atoll.revived(of_table text, state jsonb) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    stamp constant bigint := (((greatest(atoll.latest(state), (state->>'d')::bigint) >> 16) + 1) << 16) | atoll.me();
    col   constant atoll.local_column := (select c from atoll.local_column c where c.tbl = of_table and not c.is_key
                                           order by c.policy <> 'lww', c.in_unique, c.ordinal limit 1);
    touch jsonb;
begin
    if col.name is null then
        touch := jsonb_build_object('b', stamp);
    else
        select jsonb_build_object('t', jsonb_object_agg(c.name, stamp), 'v', jsonb_object_agg(c.name, state->'v'->c.name)) into touch
          from atoll.local_column c where c.tbl = of_table and (c.name = col.name or c.together = col.together);
    end if;
    return atoll.join_state(atoll.policies(of_table), state, touch || jsonb_strip_nulls(jsonb_build_object('e', state->'e')));
end $$;

-- Says what is to become of a table's orphans, on every node.
create or replace function atoll.on_orphans(tbl text, policy text) returns text
language plpgsql as $$
begin
    return atoll.set_orphan_rule(atoll.find_table(tbl), policy);
end $$;
comment on function atoll.on_orphans(text, text) is 'says what becomes of a table''s rows whose parent was deleted elsewhere';

create or replace function atoll.set_orphan_rule(t regclass, policy text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
#variable_conflict use_variable
declare
    full_name constant text := atoll.qualified(t);
    of_kind   constant text := (select s.kind from atoll.shared_table s where s.name = full_name);
begin
    perform atoll.check_owner(t);
    if of_kind is null then
        perform atoll.refuse('table-not-shared', format('table %s is not shared', full_name), hint => 'See what is: select name from atoll.shared_table');
    elsif policy is null or policy not in ('report', 'follow', 'remove', 'restore') then
        perform atoll.refuse('orphan-policy', format('policy "%s" for orphans does not exist', policy), hint => 'It is report, follow, remove or restore.');
    elsif of_kind = 'append' and policy in ('follow', 'remove') then
        perform atoll.refuse('orphan-policy', format('cannot %s orphans of append table %s', policy, full_name), 'Facts are stated once and stay.', 'It is report or restore.');
    end if;
    insert into atoll.orphan_rule (tbl, policy) values (full_name, policy)
    on conflict on constraint orphan_rule_pkey do update set policy = excluded.policy where orphan_rule.policy <> excluded.policy;
    return full_name;
end $$;

-- Which tables may have orphans, and a number that grows when they or their parents are written.
create or replace function atoll.tables_with_references() returns table (name text, writes bigint)
language sql stable security definer set search_path = pg_catalog
begin atomic
    -- Most tables refer to none, which costs little to see.
    with referring as materialized (
        select t.name, t.relid from atoll.local_table t
         where t.problem is null and exists (select from pg_constraint k where k.conrelid = t.relid and k.contype = 'f')
    )
    select t.name, sum(w.n)::bigint
      from referring t
      join lateral (select t.relid union select p.relid from atoll.references_of(t.name) r join atoll.local_table p on p.name = r.parent) f on true
      join lateral (select pg_stat_get_tuples_inserted(x.relid) + pg_stat_get_tuples_updated(x.relid) + pg_stat_get_tuples_deleted(x.relid) as n
                      from (select relid from pg_partition_tree(f.relid) union select f.relid) x) w on true
     where exists (select from atoll.references_of(t.name))
     group by t.name order by t.name;
end;

create or replace view atoll.orphans as
select o.id, o.tbl as "table", o.key, o.reference as "constraint", o.parent, o.parent_key, o.why, atoll.stamp_time(o.since) as since,
       coalesce(r.policy, 'report') as policy, o.problem, o.done, o.done_at
  from atoll.orphan o left join atoll.orphan_rule r using (tbl);
