-- Rollups: declaring them, carrying declarations out on this node, and keeping them up to date.
--
-- Each node counts the rows that it holds, also those that came from elsewhere, and writes parts under its own number. Which
-- nodes' parts a view adds up follows from how the table is shared: all, where rows stay on their node; this node's
-- alone, where all have the same rows (its parts stay then here); one node of each region, where rows stay in theirs.
-- What is generated for a rollup is in 50_rollup_render.sql.

create or replace function atoll.rollup(tbl text, bucket interval, at text, by text[] default '{}', measures jsonb default '{}', name text default null,
                                        zone text default 'UTC', scope text default 'global') returns text
language plpgsql as $$
begin
    return atoll.declare_rollup(atoll.find_table(tbl), bucket, at, coalesce(by, '{}'), coalesce(measures, '{}'), name, coalesce(zone, 'UTC'), coalesce(scope, 'global'));
end $$;
comment on function atoll.rollup(text, interval, text, text[], jsonb, text, text, text) is 'keeps what a table''s rows come to, window by window, and sums it over nodes';

create or replace function atoll.declare_rollup(t regclass, bucket interval, at text, by text[], measures jsonb, view_name text, zone text, scope text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    d         jsonb;
    full_name text;
    had       atoll.rollup_rule;
begin
    perform atoll.check_owner(t);
    perform atoll.check_countable(t);
    d := atoll.rollup_definition(t, bucket, at, by, measures, zone, scope);
    perform atoll.check_indexed(t, d);
    full_name := atoll.rollup_name(t, d, view_name);
    select * into had from atoll.rollup_rule r where r.name = full_name;
    if had.definition = d then
        return full_name;
    elsif had.name is not null or to_regclass(full_name) is not null or to_regclass(atoll.by_node(full_name)) is not null then
        perform atoll.refuse('rollup-exists', format('cannot make rollup %s: there is %s of that name', full_name, case when had.name is null then 'a relation' else 'a rollup' end),
            hint => case when had.name is null then 'Give another name.' else format('Give another name, or end it first: select atoll.drop_rollup(%L)', full_name) end);
    end if;
    insert into atoll.rollup_rule (name, definition, declared) values (full_name, d, atoll.now());
    perform atoll.carry_out_rollup(full_name);
    perform atoll.fill_rollup(full_name, 20000);
    return full_name;
end $$;

create or replace function atoll.check_countable(t regclass) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    c pg_class;
begin
    select * into c from pg_class where oid = t;
    if c.relispartition then
        perform atoll.refuse('rollup-table', format('cannot roll up %s: it is a partition', t), hint => 'Roll up the partitioned table.');
    elsif c.relkind not in ('r', 'p') or c.relpersistence <> 'p' or c.relnamespace in (select oid from pg_namespace where nspname in ('atoll', 'atoll_side', 'pg_catalog', 'information_schema'))
       or exists (select from pg_inherits i join pg_class p on p.oid = i.inhparent where (i.inhrelid = t or i.inhparent = t) and p.relkind <> 'p') then
        perform atoll.refuse('rollup-table', format('cannot roll up %s: it is no ordinary table', t), 'Its rows have to be written by statements on this node, and to survive a crash.', 'Views, foreign, temporary, unlogged and inherited tables, and those of the system, cannot be rolled up.');
    elsif exists (select from atoll.shared_table s where s.name = atoll.qualified(t) and s.scope_column is not null) then
        perform atoll.refuse('rollup-scoped', format('cannot roll up %s: its rows have scopes of their own', t), 'It would not be clear which nodes have to be added up.', 'Give it one scope for all rows.');
    end if;
end $$;

create or replace function atoll.is_indexed(t oid, col text) returns boolean
language sql stable set search_path = pg_catalog as $$
    select exists (select from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0] join pg_class c on c.oid = i.indexrelid join pg_am m on m.oid = c.relam
                    where i.indrelid = t and i.indisvalid and i.indpred is null and m.amname = 'btree' and a.attname = col)
$$;

-- Where a row is taken out, a bucket may have to be read again.
create or replace function atoll.check_indexed(t regclass, d jsonb) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if exists (select from jsonb_array_elements(d->'measures') m where m->'what' ?| array['min', 'max', 'distinct']) and not atoll.is_indexed(t, d->'at'->>'name') then
        perform atoll.refuse('rollup-index', format('cannot roll up %s: there is no index on column "%s"', t, d->'at'->>'name'),
            'When a row is deleted or changed, least, greatest and distinct values are read from the rows of its bucket again.', format('create index on %s (%I)', t, d->'at'->>'name'));
    end if;
end $$;

-- A column as a definition holds it: its type, and for types of people's own that of their text.
create or replace function atoll.rollup_column(t regclass, col text) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    found jsonb;
begin
    select jsonb_build_object('name', a.attname, 'type', case when y.typnamespace = 'pg_catalog'::regnamespace then format_type(y.oid, -1) else 'text' end, 'category', y.typcategory)
      into found
      from pg_attribute a join pg_type u on u.oid = a.atttypid join pg_type y on y.oid = case u.typtype when 'd' then u.typbasetype else u.oid end
     where a.attrelid = t and a.attname = col and a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v';
    if found is null then
        perform atoll.refuse('rollup-column', format('cannot roll up %s: column "%s" does not exist', t, col),
            format('Its columns are %s.', (select string_agg(attname, ', ' order by attnum) from pg_attribute where attrelid = t and attnum > 0 and not attisdropped and attgenerated <> 'v')));
    end if;
    return found;
end $$;

create or replace function atoll.rollup_definition(t regclass, bucket interval, at text, by text[], measures jsonb, zone text, scope text) returns jsonb
language plpgsql stable set search_path = pg_catalog as $$
declare
    unit  constant text := case bucket when '1 day' then 'day' when '7 days' then 'week' when '1 month' then 'month' when '3 months' then 'quarter' when '1 year' then 'year' end;
    moment constant jsonb := atoll.rollup_column(t, at);
    names text[] := '{bucket,n,node}';
    bys   jsonb := '[]';
    found jsonb := '[]';
    m     record;
    c     jsonb;
    twice text;
begin
    if bucket is null or unit is null and (extract(year from bucket) <> 0 or extract(month from bucket) <> 0 or extract(day from bucket) <> 0 or bucket < '1 second') then
        perform atoll.refuse('rollup-bucket', format('cannot roll up by buckets of %s', bucket), hint => 'A bucket is so many seconds, minutes or hours, or 1 day, 1 week, 1 month, 3 months or 1 year.');
    elsif coalesce(moment->>'type', '') not in ('timestamp with time zone', 'timestamp without time zone', 'date') then
        perform atoll.refuse('rollup-column', format('cannot roll up by the time in column "%s": its type is %s', at, moment->>'type'), hint => 'It has to be a timestamp or a date.');
    elsif not exists (select from pg_timezone_names z where z.name = zone) then
        perform atoll.refuse('rollup-bucket', format('time zone "%s" does not exist', zone), hint => 'For example: Europe/Lisbon');
    elsif zone <> 'UTC' and (unit is null or moment->>'type' <> 'timestamp with time zone') then
        perform atoll.refuse('rollup-bucket', format('cannot count buckets of %s over column "%s" in time zone %s', bucket, at, zone), hint => 'A zone says where days, weeks and months begin, for a timestamp with time zone.');
    elsif scope not in ('global', 'region', 'local') then
        perform atoll.refuse('scope-malformed', format('scope "%s" does not exist', scope), hint => 'What a rollup says goes to all nodes (global), to those of the region, or stays (local).');
    elsif jsonb_typeof(measures) <> 'object' then
        perform atoll.refuse('rollup-measure', 'measures is not an object', hint => 'For example: {"temp": ["avg", "max", "p95"], "visitor": ["distinct"]}');
    elsif cardinality(by) > 8 or (select count(*) from jsonb_object_keys(measures)) > 16 then
        perform atoll.refuse('rollup-measure', format('cannot roll up %s: too much at once', t), hint => 'By 8 columns and 16 measured ones at most.');
    end if;
    for m in select u.col from unnest(by) with ordinality u (col, i) order by i loop
        c := atoll.rollup_column(t, m.col);
        if c->>'category' not in ('B', 'D', 'E', 'I', 'N', 'S') and c->>'type' <> 'uuid' or c->>'type' in ('money', 'real', 'double precision') then
            perform atoll.refuse('rollup-column', format('cannot roll up by column "%s": its type is %s', m.col, c->>'type'), hint => 'Groups are made by text, whole and decimal numbers, booleans, times, enums, uuid and inet.');
        end if;
        bys := bys || (c - 'category');
        names := names || m.col;
    end loop;
    for m in select key as name, case jsonb_typeof(value) when 'string' then jsonb_build_array(value) when 'array' then value else '[]' end as what from jsonb_each(measures) order by key collate "C" loop
        c := atoll.measure_definition(atoll.rollup_column(t, m.name), m.what);
        found := found || c;
        names := names || array(select atoll.measure_column(m.name, w) from jsonb_array_elements_text(c->'what') w);
    end loop;
    select x into twice from unnest(names) x group by x having count(*) > 1 or max(length(x)) > 63 limit 1;
    if twice is not null then
        perform atoll.refuse('rollup-name', format('cannot make a rollup with column "%s": the name is taken twice or too long', twice), hint => 'The columns bucket, n and node are the rollup''s own. Rename the table''s column.');
    end if;
    return jsonb_build_object('table', atoll.qualified(t), 'at', moment - 'category', 'bucket', bucket::text, 'unit', unit, 'zone', zone, 'by', bys, 'measures', found, 'scope', scope);
end $$;

create or replace function atoll.measure_definition(c jsonb, what jsonb) returns jsonb
language plpgsql immutable set search_path = pg_catalog as $$
declare
    class constant text := case when c->>'type' in ('smallint', 'integer', 'bigint') then 'whole' when c->>'type' = 'numeric' then 'decimal'
                                when c->>'type' in ('real', 'double precision') then 'float' else 'other' end;
    known constant text := case when class <> 'other' then '^(count|sum|avg|min|max|distinct|p(0*[1-9][0-9]?|[0-9]{1,2}\.[0-9]{1,3}))$'
                                when c->>'category' in ('D', 'T') or c->>'type' in ('text', 'character varying', 'bpchar') then '^(count|min|max|distinct)$'
                                when c->>'category' in ('A', 'C') or c->>'type' in ('json', 'jsonb', 'money') then '^count$' else '^(count|distinct)$' end;
    w text;
begin
    if jsonb_array_length(what) = 0 then
        perform atoll.refuse('rollup-measure', format('nothing is asked of column "%s"', c->>'name'), hint => 'For example: ["avg", "max", "p95"]');
    end if;
    for w in select * from jsonb_array_elements_text(what) loop
        if w is null or w !~ known then
            perform atoll.refuse('rollup-measure', format('cannot keep "%s" of column "%s", whose type is %s', w, c->>'name', c->>'type'),
                hint => 'Numbers have count, sum, avg, min, max, distinct, and p1 to p99 for quantiles; times and text have count, min, max, distinct.');
        end if;
    end loop;
    return (c - 'category') || jsonb_build_object('class', class, 'what', (select jsonb_agg(distinct x) from jsonb_array_elements_text(what) x));
end $$;

create or replace function atoll.rollup_name(t regclass, d jsonb, said text) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    seconds constant numeric := extract(epoch from (d->>'bucket')::interval);
    suffix  constant text := case d->>'unit' when 'day' then '1d' when 'week' then '1w' when 'month' then '1month' when 'quarter' then '1quarter' when 'year' then '1year'
                                  else case when seconds % 3600 = 0 then trim_scale(seconds / 3600) || 'h' when seconds % 60 = 0 then trim_scale(seconds / 60) || 'min' else replace(trim_scale(seconds)::text, '.', '_') || 's' end end;
    parts   text[];
begin
    select array[n.nspname::text, coalesce(said, c.relname || '_' || suffix)] into parts from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = t;
    if said like '%.%' or said like '"%' then
        begin
            parts := parse_ident(said);
        exception when invalid_parameter_value then
            parts := '{}';
        end;
        if cardinality(parts) = 1 then
            parts := (select n.nspname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = t) || parts;
        end if;
    end if;
    if cardinality(parts) <> 2 or parts[2] = '' or length(parts[2]) > 55 then
        perform atoll.refuse('rollup-name', format('a rollup cannot be named %s', quote_literal(coalesce(said, parts[2]))), hint => 'A view has that name, and another one with _by_node behind it: 55 characters at most.');
    end if;
    return format('%I.%I', parts[1], parts[2]);
end $$;

-- The nodes whose parts add up to the rows of a table, each counted once; null means all of them.
create or replace function atoll.counted_nodes(of_table text) returns integer[]
language sql stable parallel safe security definer set search_path = pg_catalog as $$
    select case when s.scope_column is not null or s.scope = 'global' then array[atoll.me()]
                when s.scope = 'region' then array[atoll.me()] || array(select min(p.number) from atoll.peers() p where 'region:' || p.region <> atoll.here() group by p.region) end
      from (select) one left join atoll.shared_table s on s.name = of_table
$$;

-- Where this node's parts may go. Others let go of those that stay, as of any row whose scope is no longer theirs.
create or replace function atoll.part_scope(of_table text, wanted text) returns text
language sql stable set search_path = pg_catalog as $$
    select case when wanted = 'local' then 'local'
                when exists (select from atoll.shared_table s where s.name = of_table and (s.scope = 'global' or s.scope_column is not null)) then atoll.here_only()
                when wanted = 'region' then atoll.here() else 'global' end
$$;

create or replace function atoll.lock_rollup(of_name text) returns void
language sql
return pg_advisory_xact_lock(x'61746f6d'::integer, hashtext(of_name));

-- Brings what is here of a rollup to what its rule says.
create or replace function atoll.carry_out_rollup(of_name text) returns void
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '5s' as $$
declare
    rule   atoll.rollup_rule := (select r from atoll.rollup_rule r where r.name = of_name);
    had    atoll.local_rollup := (select l from atoll.local_rollup l where l.name = of_name);
    t      regclass;
    col    jsonb;
    heir   text;
begin
    perform atoll.lock_rollup(of_name);
    if had.name is not null and (rule.name is null or rule.declared <> had.declared) then
        perform atoll.remove_rollup(had);
        had := null;
    end if;
    if rule.name is null then
        return;
    end if;
    t := to_regclass(rule.definition->>'table');
    if t is not null then
        perform atoll.check_countable(t);
        perform atoll.check_indexed(t, rule.definition);
        for col in select rule.definition->'at' union all select value from jsonb_array_elements(rule.definition->'by') union all select value from jsonb_array_elements(rule.definition->'measures') loop
            if atoll.rollup_column(t, col->>'name')->>'type' <> col->>'type' then
                perform atoll.refuse('rollup-column', format('cannot keep rollup %s: column "%s" is %s here and %s where it was declared', of_name, col->>'name', atoll.rollup_column(t, col->>'name')->>'type', col->>'type'));
            end if;
        end loop;
    end if;
    if had.relid is not null and had.relid is distinct from t::oid then
        perform atoll.drop_rollup_triggers(had);
    end if;
    delete from atoll.rollup_part p where p.rollup = of_name and p.node = had.kept_as and had.kept_as <> atoll.me();
    delete from atoll.local_rollup l where l.name = of_name;
    insert into atoll.local_rollup (name, side, definition, declared, relid, kept_as, fill_to, scope)
    values (of_name, case when length(of_name) <= 48 then of_name else left(of_name, 40) || '~' || left(md5(of_name), 7) end, rule.definition, rule.declared, t, atoll.me(),
            case when t is not null then 'infinity'::timestamptz end, atoll.part_scope(rule.definition->>'table', rule.definition->>'scope'))
    returning * into had;
    perform atoll.render_rollup(had);
    if t is not null then
        perform atoll.set_rollup_triggers(had);
    end if;
    heir := coalesce((select relowner::regrole::text from pg_class where oid = t), (select rolname from pg_roles where rolname = 'app'));
    if heir is not null then
        execute format('grant select on %s, %s to %s with grant option', of_name, atoll.by_node(of_name), heir);
    end if;
end $$;

create or replace function atoll.remove_rollup(r atoll.local_rollup) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    part text;
begin
    perform atoll.drop_rollup_triggers(r);
    execute format('drop view if exists %s, %s', r.name, atoll.by_node(r.name));
    foreach part in array array['note()', 'fold(integer)', 'refresh(timestamptz, timestamptz)', 'stretch(timestamptz, integer)'] loop
        execute format('drop function if exists %s(%s', atoll.generated(r.side, split_part(part, '(', 1)), split_part(part, '(', 2));
    end loop;
    execute format('drop view if exists %s', atoll.generated(r.side, 'source'));
    execute format('drop table if exists %s', atoll.generated(r.side, 'pending'));
    delete from atoll.rollup_part p where p.rollup = r.name and p.node = r.kept_as;
    delete from atoll.local_rollup l where l.name = r.name;
end $$;

create or replace function atoll.drop_rollup_triggers(r atoll.local_rollup) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    found record;
begin
    for found in select g.tgname, atoll.qualified(g.tgrelid) as rel from pg_trigger g where g.tgfoid = to_regprocedure(atoll.generated(r.side, 'note') || '()') loop
        execute format('drop trigger %I on %s', found.tgname, found.rel);
    end loop;
end $$;

-- They act on arriving changes too: what is counted is what is here.
create or replace function atoll.set_rollup_triggers(r atoll.local_rollup) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    wanted record;
begin
    for wanted in
        select atoll.qualified(t.relid) as rel, g.oid, g.tgenabled, w.event, w.tables, format('atoll_rollup_%s_%s', left(md5(r.name), 8), w.part) as name
          from (select relid from pg_partition_tree(r.relid) union select r.relid) t
          cross join (values ('insert', 'after insert', 'referencing new table as new_rows'), ('update', 'after update', 'referencing old table as old_rows new table as new_rows'),
                             ('delete', 'after delete', 'referencing old table as old_rows'), ('truncate', 'before truncate', '')) w (part, event, tables)
          left join pg_trigger g on g.tgrelid = t.relid and g.tgname = format('atoll_rollup_%s_%s', left(md5(r.name), 8), w.part)
         where g.oid is null or g.tgenabled <> 'A'
    loop
        if wanted.oid is null then
            execute format('create trigger %I %s on %s %s for each statement execute function %s()', wanted.name, wanted.event, wanted.rel, wanted.tables, atoll.generated(r.side, 'note'));
        end if;
        execute format('alter table %s enable always trigger %I', wanted.rel, wanted.name);
    end loop;
end $$;

-- Counts the next stretch of rows that were there before, the latest first. Says whether more are left.
create or replace function atoll.fill_rollup(of_name text, most integer) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
declare
    r   atoll.local_rollup;
    low timestamptz;
begin
    perform atoll.lock_rollup(of_name);
    select * into r from atoll.local_rollup l where l.name = of_name;
    if r.fill_to is null then
        return false;
    end if;
    -- Without an index, each stretch would read the whole table.
    if atoll.is_indexed(r.relid, r.definition->'at'->>'name') then
        execute format('select %s($1, $2)', atoll.generated(r.side, 'stretch')) into low using r.fill_to, most;
    else
        low := '-infinity';
    end if;
    execute format('select %s($1, $2)', atoll.generated(r.side, 'refresh')) using low, r.fill_to;
    update atoll.local_rollup l set fill_to = nullif(low, '-infinity') where l.name = of_name;
    return isfinite(low);
end $$;

-- What a node does every few seconds: carries out what was declared, ends what was ended, counts on, folds. A rollup that
-- somebody else is at, or that cannot be kept now, waits for the next time. Says how many notes were
-- folded; `most` or more means that there is more to do.
create or replace function atoll.tend_rollups(most integer default 10000) returns bigint
language plpgsql security definer set search_path = pg_catalog set lock_timeout = '2s' as $$
declare
    r      record;
    reason text;
    folded bigint;
    done   bigint := 0;
begin
    for r in select coalesce(u.name, l.name) as name, u.declared, u.definition, l.declared as was, l.side, l.relid, l.kept_as, l.fill_to, l.scope, l.problem, l.name is not null as here
               from atoll.rollup_rule u full join atoll.local_rollup l on l.name = u.name order by 1
    loop
        continue when not pg_try_advisory_xact_lock(x'61746f6d'::integer, hashtext(r.name));
        begin
            if r.declared is distinct from r.was or r.problem is not null or r.kept_as <> atoll.me() or r.relid is distinct from to_regclass(r.definition->>'table')::oid
               or r.relid is not null and not atoll.rollup_fits(r.definition, r.relid) then
                perform atoll.carry_out_rollup(r.name);
                done := done + most;
                continue;
            elsif r.relid is null then
                continue;
            elsif r.scope is distinct from atoll.part_scope(r.definition->>'table', r.definition->>'scope') then
                update atoll.rollup_part p set scope = atoll.part_scope(r.definition->>'table', r.definition->>'scope') where p.rollup = r.name and p.node = atoll.me();
                update atoll.local_rollup l set scope = atoll.part_scope(r.definition->>'table', r.definition->>'scope') where l.name = r.name;
            end if;
            perform atoll.set_rollup_triggers(l) from atoll.local_rollup l where l.name = r.name;
            if r.fill_to is not null and atoll.fill_rollup(r.name, 5 * most) then
                done := done + most;
            end if;
            execute format('select %s($1)', atoll.generated(r.side, 'fold')) into folded using most;
            done := done + folded;
        exception
            when lock_not_available or transaction_rollback or insufficient_resources then null;   -- the next time
            when others then
                get stacked diagnostics reason = message_text;
                begin
                    perform atoll.suspend_rollup(r.name, reason);
                exception when lock_not_available then null;
                end;
        end;
    end loop;
    return done;
end $$;

-- A rollup that cannot be kept must not stop who writes the table.
create or replace function atoll.suspend_rollup(of_name text, why text) returns void
language plpgsql set search_path = pg_catalog set lock_timeout = '2s' as $$
begin
    insert into atoll.local_rollup (name, side, definition, declared, kept_as, problem)
    select u.name, u.name, u.definition, u.declared, atoll.me(), why from atoll.rollup_rule u where u.name = of_name
    on conflict (name) do update set problem = excluded.problem;
    perform atoll.drop_rollup_triggers(l) from atoll.local_rollup l where l.name = of_name;
end $$;

-- Are the columns that a rollup needs in a table?
create or replace function atoll.rollup_fits(d jsonb, t oid) returns boolean
language sql stable set search_path = pg_catalog as $$
    select not exists (select from (select d->'at' as c union all select jsonb_array_elements(d->'by') union all select jsonb_array_elements(d->'measures')) x
                        where not exists (select from pg_attribute a where a.attrelid = t and a.attname = x.c->>'name' and a.attnum > 0 and not a.attisdropped))
       and atoll.is_table(d->>'table', t)
$$;

create or replace function atoll.find_rollup(said text) returns text
language plpgsql stable as $$
declare
    found text;
begin
    begin
        found := coalesce(atoll.qualified(to_regclass(said)), said);
    exception when others then
        found := said;
    end;
    if found is null or not atoll.is_rollup(found) then
        perform atoll.refuse('rollup-unknown', format('rollup %s does not exist', said), hint => 'See what is: select name from atoll.rollups');
    end if;
    return found;
end $$;

create or replace function atoll.is_rollup(said text) returns boolean
language sql stable security definer set search_path = pg_catalog as $$
    select exists (select from atoll.rollup_rule r where r.name = said)
$$;

create or replace function atoll.check_rollup_owner(of_name text) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    t constant regclass := (select to_regclass(r.definition->>'table') from atoll.rollup_rule r where r.name = of_name);
begin
    if t is not null then
        perform atoll.check_owner(t);
    elsif to_regclass(of_name) is null or not has_table_privilege(session_user, of_name, 'select with grant option') then
        perform atoll.refuse('not-owner', format('%s is not owner of %s', session_user, of_name), state => 'AT003');
    end if;
end $$;

create or replace function atoll.drop_rollup(name text) returns text
language plpgsql as $$
begin
    return atoll.end_rollup(atoll.find_rollup(name));
end $$;
comment on function atoll.drop_rollup(text) is 'ends a rollup, on every node';

create or replace function atoll.end_rollup(full_name text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform atoll.check_rollup_owner(full_name);
    perform atoll.lock_rollup(full_name);
    delete from atoll.rollup_rule r where r.name = full_name;
    perform atoll.carry_out_rollup(full_name);
    delete from atoll.rollup_part p where p.rollup = full_name;
    return full_name;
end $$;

create or replace function atoll.refresh_rollup(name text, since timestamptz default null, upto timestamptz default null) returns bigint
language plpgsql as $$
begin
    return atoll.count_anew(atoll.find_rollup(name), coalesce(since, '-infinity'), coalesce(upto, 'infinity'));
end $$;
comment on function atoll.refresh_rollup(text, timestamptz, timestamptz) is 'counts the rows of this node anew, in whole buckets';

create or replace function atoll.count_anew(full_name text, since timestamptz, upto timestamptz) returns bigint
language plpgsql security definer set search_path = pg_catalog as $$
declare
    r    atoll.local_rollup;
    rows bigint;
begin
    perform atoll.check_rollup_owner(full_name);
    perform atoll.lock_rollup(full_name);
    select * into r from atoll.local_rollup l where l.name = full_name;
    if r.relid is null or r.problem is not null then
        perform atoll.refuse('rollup-idle', format('could not count rollup %s anew: its table is not kept count of here', full_name), r.problem, 'See: select * from atoll.rollups');
    end if;
    execute format('select %s($1, $2)', atoll.generated(r.side, 'refresh')) into rows using since, upto;
    return rows;
end $$;

-- Who renames what a rollup needs hears of it at once; that nothing of it is dropped, its view sees to. A new partition is
-- counted from its first row.
create or replace function atoll.guard_rollups() returns event_trigger
language plpgsql security definer set search_path = pg_catalog as $$
declare
    bad text;
begin
    if tg_tag = 'CREATE TABLE' then
        perform atoll.set_rollup_triggers(l) from atoll.local_rollup l join pg_class c on c.oid = l.relid where c.relkind = 'p' and l.problem is null and to_regproc(atoll.generated(l.side, 'note')) is not null;
        return;
    end if;
    select l.name into bad from atoll.local_rollup l join pg_class c on c.oid = l.relid where l.problem is null and not atoll.rollup_fits(l.definition, l.relid) limit 1;
    if bad is not null and current_setting('atoll.altering', true) is distinct from 'on' then
        perform atoll.refuse('rollup-in-use', format('cannot rename what rollup %s needs', bad), hint => format('End the rollup first: select atoll.drop_rollup(%L)', bad));
    end if;
end $$;

create or replace function atoll.set_rollup_guard() returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if not exists (select from pg_event_trigger where evtname = 'atoll_guard_rollups') then
        create event trigger atoll_guard_rollups on ddl_command_end when tag in ('ALTER TABLE', 'CREATE TABLE') execute function atoll.guard_rollups();
    end if;
exception when insufficient_privilege then
    return;   -- looked at now and then instead
end $$;

create or replace view atoll.rollups as
select u.name, u.definition->>'table' as "table", (u.definition->>'bucket')::interval as bucket, u.definition->'at'->>'name' as at, u.definition->>'zone' as zone,
       array(select x->>'name' from jsonb_array_elements(u.definition->'by') x) as by,
       (select coalesce(jsonb_object_agg(x->>'name', x->'what'), '{}') from jsonb_array_elements(u.definition->'measures') x) as measures,
       u.definition->>'scope' as scope,
       case when l.problem is not null then 'stopped' when l.name is null then 'declared' when l.relid is null then 'received' when l.fill_to is not null then 'filling' else 'kept' end as state,
       l.fill_to as counted_from, l.problem
  from atoll.rollup_rule u left join atoll.local_rollup l on l.name = u.name;
