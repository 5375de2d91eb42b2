-- Sharing a table: the refusals, the sidecar, the triggers, the take-up of rows that are there already.

-- Tables of Atoll's own that are shared like any other: what they say holds on every node.
drop function if exists atoll.own_tables();
create or replace function atoll.own_tables() returns table (name text, kind text, scope_column text)
language sql immutable set search_path = pg_catalog
begin atomic
    values ('atoll.node', 'merge', null), ('atoll.shared_table', 'merge', null), ('atoll.region', 'merge', null),
           ('atoll.tie', 'merge', null), ('atoll.absence', 'merge', null), ('atoll.schema_change', 'append', null),
           ('atoll.orphan_rule', 'merge', null), ('atoll.model', 'merge', null), ('atoll.desired_model', 'merge', null),
           ('atoll.api_key', 'merge', null), ('atoll.search_rule', 'merge', null), ('atoll.rollup_rule', 'merge', null),
           ('atoll.rollup_part', 'merge', 'scope'), ('atoll.pipeline', 'merge', null), ('atoll.embedding', 'merge', null),
           ('atoll.offer', 'merge', null), ('atoll.room', 'merge', null), ('atoll.route', 'merge', null),
           ('atoll.job', 'merge', 'scope'), ('atoll.job_claim', 'merge', 'scope'), ('atoll.budget', 'merge', null), ('atoll.budget_lease', 'merge', null),
           ('atoll.answer', 'merge', 'scope'), ('atoll.example', 'merge', 'scope'),
           ('atoll.tuning', 'merge', 'scope'), ('atoll.tuning_part', 'merge', 'scope'), ('atoll.tuning_verdict', 'merge', 'scope');
end;

-- How their columns merge, where the latest value is not what holds.
create or replace function atoll.own_merge(of_table text) returns jsonb
language sql immutable set search_path = pg_catalog
return case of_table when 'atoll.job' then '{"outcome": "first"}'::jsonb else '{}' end;

create or replace function atoll.qualified(t regclass) returns text
language sql stable
return (select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = t);

create or replace function atoll.equality(type oid, opclass oid) returns text
language sql stable
return (select format('%I.%s', n.nspname, o.oprname)
          from pg_opclass c join pg_amop a on a.amopfamily = c.opcfamily and a.amopstrategy = 3
               and a.amoplefttype = c.opcintype and a.amoprighttype = c.opcintype
          join pg_operator o on o.oid = a.amopopr join pg_namespace n on n.oid = o.oprnamespace
         where c.oid = opclass);

-- A condition over rows m (in the table) and n (a candidate): some secondary unique index holds both for equal.
-- Indexes on plain columns compare column by column and use the index; others compare what they index.
create or replace function atoll.unique_match(of_table text) returns text
language sql stable
return (
    with i as (
        select x.*, pg_get_expr(x.indpred, x.indrelid) as pred
          from pg_index x join atoll.local_table t on t.relid = x.indrelid
         where t.name = of_table and x.indisunique and not x.indisprimary
    ), e as (
        select i.indexrelid, k, i.indnullsnotdistinct as same_nulls,
               case when i.indkey[k - 1] <> 0 then (select quote_ident(attname) from pg_attribute a where a.attrelid = i.indrelid and a.attnum = i.indkey[k - 1]) end as col,
               pg_get_indexdef(i.indexrelid, k, false) as expr,
               atoll.equality(null, i.indclass[k - 1]) as eq
          from i, generate_series(1, i.indnkeyatts) k
    ), one as (
        select i.indexrelid,
               case when bool_and(e.col is not null) and i.pred is null then
                   string_agg(case when e.same_nulls then format('(m.%1$s operator(%2$s) n.%1$s or (m.%1$s is null and n.%1$s is null))', e.col, e.eq)
                                   else format('m.%1$s operator(%2$s) n.%1$s', e.col, e.eq) end, ' and ' order by k)
               else format('exists (select from (select %1$s from (select m.*) z %3$s) a, (select %2$s from (select n.*) z %3$s) b where %4$s)',
                   string_agg(format('%s as e%s', expr, k), ', ' order by k), string_agg(format('%s as e%s', expr, k), ', ' order by k),
                   'where ' || i.pred,
                   string_agg(case when e.same_nulls then format('(a.e%1$s operator(%2$s) b.e%1$s or (a.e%1$s is null and b.e%1$s is null))', k, e.eq)
                                   else format('a.e%1$s operator(%2$s) b.e%1$s', k, e.eq) end, ' and ' order by k)) end as cond
          from i join e using (indexrelid) group by i.indexrelid, i.pred
    )
    select string_agg('(' || cond || ')', ' or ' order by indexrelid) from one);

-- Every reason not to share a table, the first of which is told.
create or replace function atoll.check_shareable(t regclass, as_kind text, as_merge jsonb) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    c    pg_class;
    pk   pg_index;
    col  record;
    bad  text;
begin
    select * into c from pg_class where oid = t;
    if c.relnamespace in ('atoll'::regnamespace, 'atoll_side'::regnamespace) and not exists (select from atoll.own_tables() o where to_regclass(o.name) = t)
       or c.relnamespace in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) then
        perform atoll.refuse('table-of-system', format('cannot share table %s: it belongs to the system', t));
    elsif c.relispartition then
        perform atoll.refuse('table-partition', format('cannot share table %s: it is a partition', t),
            hint => format('Share the partitioned table: select atoll.share(%L)', (select inhparent::regclass::text from pg_inherits where inhrelid = t)));
    elsif c.relkind not in ('r', 'p') then
        perform atoll.refuse('not-a-table', format('cannot share %s: it is not a table', t));
    elsif c.relpersistence <> 'p' then
        perform atoll.refuse('table-not-logged', format('cannot share table %s: it is temporary or unlogged', t),
            hint => 'A shared table has to survive a crash: alter table … set logged.');
    elsif exists (select from pg_inherits i join pg_class p on p.oid = i.inhparent where (i.inhrelid = t or i.inhparent = t) and p.relkind <> 'p') then
        perform atoll.refuse('table-inherits', format('cannot share table %s: it takes part in inheritance', t), hint => 'Use a partitioned table.');
    elsif exists (select from pg_rewrite where ev_class = t) then
        perform atoll.refuse('table-rules', format('cannot share table %s: it has rules', t), hint => 'Use triggers instead of rules.');
    end if;
    select * into pk from pg_index where indrelid = t and indisprimary;
    if pk.indexrelid is null then
        perform atoll.refuse('key-missing', format('cannot share table %s: it has no primary key', t),
            'A row is known by its key on every node.', 'Add one, for example: id bigint primary key default atoll.id()');
    elsif not pk.indimmediate or exists (select from pg_index where indrelid = t and indisunique and not indimmediate) then
        perform atoll.refuse('key-deferrable', format('cannot share table %s: it has a deferrable unique constraint', t),
            hint => 'Make it not deferrable.');
    elsif exists (select from pg_constraint where conrelid = t and contype = 'x') then
        perform atoll.refuse('exclusion', format('cannot share table %s: it has an exclusion constraint', t),
            'Two nodes may accept rows that exclude each other, and no rule says which one stays.', 'Drop the constraint, or keep the table local.');
    end if;
    select quote_ident(a.attname) into bad
      from pg_index i join pg_attribute a on a.attrelid = t and a.attgenerated <> ''
     where i.indrelid = t and i.indisunique and not i.indisprimary
       and (a.attnum = any (i.indkey) or exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = i.indexrelid
                                                   and d.refclassid = 'pg_class'::regclass and d.refobjid = t and d.refobjsubid = a.attnum)) limit 1;
    if bad is not null then
        perform atoll.refuse('unique-generated', format('cannot share table %s: generated column %s is in a unique index', t, bad),
            hint => 'Make the index on the expression that the column is generated from.');
    end if;
    for col in
        select a.*, a.attnum = any (pk.indkey) as is_key, pg_get_expr(d.adbin, d.adrelid) as def
          from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         where a.attrelid = t and a.attnum > 0 and not a.attisdropped
    loop
        if col.attname like 'atoll\_%' then
            perform atoll.refuse('column-reserved', format('cannot share table %s: column "%s" has a reserved name', t, col.attname),
                hint => 'Names that begin with atoll_ are the sidecar''s.');
        elsif col.is_key and (col.attidentity <> '' or col.def like 'nextval(%') then
            perform atoll.refuse('key-serial', format('cannot share table %s: its key is a serial', t),
                'Two nodes would hand out the same numbers.', 'Use uuidv7() or atoll.id().');
        elsif col.attidentity = 'a' then
            perform atoll.refuse('column-always-identity', format('cannot share table %s: column "%s" is generated always as identity', t, col.attname),
                hint => 'Use generated by default, or atoll.id().');
        elsif col.is_key and col.attgenerated <> '' then
            perform atoll.refuse('key-generated', format('cannot share table %s: its key is a generated column', t));
        end if;
    end loop;
    if as_kind not in ('merge', 'append') or as_kind is null then
        perform atoll.refuse('kind-unknown', format('table kind "%s" does not exist', as_kind), hint => 'It is merge or append.');
    elsif jsonb_typeof(as_merge) <> 'object' then
        perform atoll.refuse('merge-malformed', 'merge is not an object', hint => 'For example: {"qty": "counter", "tags": "set"}');
    elsif as_kind = 'append' and as_merge <> '{}' then
        perform atoll.refuse('append-merges-nothing', format('cannot share table %s: rows of an append table do not change', t), hint => 'Leave merge out, or use kind merge.');
    elsif as_kind = 'append' and exists (select from pg_index where indrelid = t and indisunique and not indisprimary) then
        perform atoll.refuse('append-unique', format('cannot share table %s: an append table has no unique constraint beside its key', t), hint => 'Use kind merge.');
    end if;
    for col in select key as name, value as spec from jsonb_each(as_merge) loop
        perform atoll.check_policy(t, pk, col.name, col.spec);
    end loop;
end $$;

create or replace function atoll.check_scoped(t regclass, as_merge jsonb, of_scope text, by_column text) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    a    pg_attribute;
    away bigint;
begin
    if of_scope not in ('global', 'region', 'node', 'local') then
        perform atoll.refuse('scope-malformed', format('scope "%s" does not exist', of_scope), hint => 'It is global, region, node or local.');
    elsif by_column is null then
        return;
    end if;
    select * into a from pg_attribute where attrelid = t and attname = by_column and attnum > 0 and not attisdropped;
    if a.attname is null then
        perform atoll.refuse('column-missing', format('cannot share table %s: column "%s" does not exist', t, by_column));
    elsif a.attgenerated <> '' or exists (select from pg_index where indrelid = t and indisprimary and a.attnum = any (indkey)) then
        perform atoll.refuse('scope-column', format('cannot scope table %s by column "%s": it is generated or part of the key', t, by_column), hint => 'A row keeps its key when it moves. Use a column of its own.');
    elsif (select typcategory from pg_type where oid = a.atttypid) not in ('S', 'E') then
        perform atoll.refuse('scope-column', format('cannot scope table %s by column "%s": its type is %s', t, by_column, format_type(a.atttypid, a.atttypmod)), hint => 'It has to be text.');
    elsif as_merge ? by_column then
        perform atoll.refuse('scope-column', format('cannot merge column "%s": it says where a row may go', by_column), hint => 'Its latest value holds. Leave it out of merge.');
    end if;
    execute format('select count(*) from %s r where not atoll.admits(atoll.scope_of(r.%I::text, %L))', t, by_column,
                   case of_scope when 'region' then atoll.here() when 'node' then atoll.here_only() else of_scope end) into away;
    if away > 0 then
        perform atoll.refuse('scope-elsewhere', format('cannot share table %s: %s of its rows may not be on this node', t, away),
            hint => 'Share it while it is empty, and insert those rows afterwards: they go where they may be.');
    end if;
end $$;

create or replace function atoll.check_policy(t regclass, pk pg_index, col text, spec jsonb) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    a      pg_attribute;
    policy text := split_part(spec #>> '{}', ':', 1);
    arg    text := nullif(substr(spec #>> '{}', length(policy) + 2), '');
    base   oid;
    fn     pg_proc;
begin
    select * into a from pg_attribute where attrelid = t and attname = col and attnum > 0 and not attisdropped;
    if a.attname is null then
        perform atoll.refuse('column-missing', format('cannot share table %s: column "%s" does not exist', t, col),
            format('Its columns are %s.', (select string_agg(attname, ', ' order by attnum) from pg_attribute where attrelid = t and attnum > 0 and not attisdropped)));
    elsif jsonb_typeof(spec) <> 'string' or policy not in ('lww', 'counter', 'max', 'min', 'first', 'set', 'document', 'group', 'function') then
        perform atoll.refuse('policy-unknown', format('merge policy %s of column "%s" does not exist', spec, col),
            hint => 'It is lww, counter, max, min, first, set, document, group:NAME or function:NAME.');
    elsif a.attnum = any (pk.indkey) then
        perform atoll.refuse('policy-on-key', format('cannot merge column "%s": it is part of the key', col), hint => 'A row with another key is another row.');
    elsif a.attgenerated <> '' then
        perform atoll.refuse('policy-on-generated', format('cannot merge column "%s": it is generated', col), hint => 'It follows from the other columns on every node.');
    end if;
    base := (select case when typtype = 'd' then typbasetype else oid end from pg_type where oid = a.atttypid);
    if policy = 'counter' and base not in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype) then
        perform atoll.refuse('policy-type', format('cannot count column "%s": its type is %s', col, format_type(a.atttypid, a.atttypmod)),
            hint => 'A counter is smallint, integer, bigint or numeric; sums of floating-point numbers depend on their order.');
    elsif policy in ('set', 'document') and base <> 'jsonb'::regtype then
        perform atoll.refuse('policy-type', format('cannot merge column "%s" as %s: its type is %s', col, policy, format_type(a.atttypid, a.atttypmod)),
            hint => 'It has to be jsonb.');
    elsif policy in ('max', 'min') and not exists (select from pg_opclass where opcmethod = 403 and opcdefault
            and (opcintype = base or base in (select oid from pg_type where typcategory in ('A', 'E', 'R') or typname = 'varchar'))) then
        perform atoll.refuse('policy-type', format('cannot order column "%s": its type %s has no order', col, format_type(a.atttypid, a.atttypmod)));
    elsif policy = 'group' and arg is null then
        perform atoll.refuse('group-unnamed', format('the group of column "%s" has no name', col), hint => 'For example: "group:period"');
    elsif policy = 'function' then
        begin
            select p.* into fn from pg_proc p where p.oid = to_regprocedure(format('%s(%s,%s)', arg, format_type(a.atttypid, -1), format_type(a.atttypid, -1)));
        exception when others then null;
        end;
        if fn.oid is null or fn.prorettype <> a.atttypid then
            perform atoll.refuse('function-missing', format('merge function %s(%s, %s) returning the same type does not exist', arg, format_type(a.atttypid, -1), format_type(a.atttypid, -1)),
                hint => 'Create it on every node, with its schema in the name.');
        elsif fn.provolatile = 'v' then
            perform atoll.refuse('function-volatile', format('merge function %s is volatile', arg), hint => 'It has to give the same result on every node: mark it immutable if it does.');
        end if;
    end if;
end $$;

-- A merge function has to be commutative, associative and idempotent; it is tried on values of the column.
create or replace function atoll.check_laws(t text, col text, type text, fn text) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    law record;
begin
    execute format($f$
        with v as (select distinct %1$I::text as x from (select %1$I from %2$s where %1$I is not null limit 1000) s limit 12),
             w as (select x::%3$s as x from v)
        select case when (%4$s(a.x, b.x))::text is distinct from (%4$s(b.x, a.x))::text then 'commutative'
                    when (%4$s(a.x, a.x))::text is distinct from a.x::text then 'idempotent'
                    when (%4$s(a.x, %4$s(b.x, c.x)))::text is distinct from (%4$s(%4$s(a.x, b.x), c.x))::text then 'associative' end as broken,
               a.x::text as a, b.x::text as b, c.x::text as c
          from w a, w b, w c
         order by broken nulls last limit 1 $f$, col, t, type, fn) into law;
    if law.broken is not null then
        perform atoll.refuse('function-unlawful', format('merge function %s is not %s', fn, law.broken),
            format('Tried on %s, %s and %s, values of column "%s".', quote_literal(law.a), quote_literal(law.b), quote_literal(law.c), col),
            'Nodes would not converge. A merge function gives one result whatever the order, and the same when repeated.');
    end if;
end $$;

-- Declares a table shared, on every node. The name is looked up as the caller sees it; the rest runs with the
-- node's rights, after the caller's have been checked.
create or replace function atoll.share(tbl text, merge jsonb default '{}', kind text default 'merge', scope text default 'global', scope_column text default null) returns text
language plpgsql as $$
begin
    return atoll.declare_shared(atoll.find_table(tbl), coalesce(merge, '{}'), kind, coalesce(scope, 'global'), scope_column);
end $$;
comment on function atoll.share(text, jsonb, text, text, text) is 'shares a table with the nodes of the atoll that may have its rows';

create or replace function atoll.declare_shared(t regclass, rules jsonb, of_kind text, of_scope text, by_column text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    full_name text := atoll.qualified(t);
    had       atoll.shared_table;
begin
    perform atoll.check_owner(t);
    select * into had from atoll.shared_table s where s.name = full_name;
    if had.kind = of_kind and had.merge = rules and had.scope = of_scope and had.scope_column is not distinct from by_column then
        return full_name;
    elsif had.name is not null then
        perform atoll.refuse('table-shared', format('table %s is shared already, with other rules', full_name),
            format('It is %s with %s, scope %s.', had.kind, had.merge, concat_ws(' or by column ', had.scope, had.scope_column)), format('select atoll.unshare(%L) first.', full_name));
    end if;
    perform atoll.check_shareable(t, of_kind, rules);
    perform atoll.check_scoped(t, rules, of_scope, by_column);
    insert into atoll.shared_table (name, kind, merge, scope, scope_column, definition, declared)
    values (full_name, of_kind, rules, of_scope, by_column, atoll.definition_of(t), atoll.now());
    perform atoll.install_tables();
    return full_name;
end $$;

create or replace function atoll.unshare(tbl text) returns text
language plpgsql as $$
begin
    return atoll.end_sharing(coalesce(atoll.qualified(to_regclass(tbl)), tbl));
end $$;
comment on function atoll.unshare(text) is 'ends the sharing of a table; every node keeps its rows';

create or replace function atoll.end_sharing(full_name text) returns text
language plpgsql security definer set search_path = pg_catalog as $$
begin
    if full_name is null or full_name like 'atoll.%' or not exists (select from atoll.shared_table s where s.name = full_name) then
        perform atoll.refuse('table-not-shared', format('table %s is not shared', full_name), hint => 'See what is: select name from atoll.shared_table');
    end if;
    perform atoll.check_owner(to_regclass(full_name));
    delete from atoll.shared_table s where s.name = full_name;
    perform atoll.install_tables();
    return full_name;
end $$;

create or replace function atoll.find_table(tbl text) returns regclass
language plpgsql stable as $$
declare
    t regclass;
begin
    if coalesce(tbl, '') = '' then
        perform atoll.refuse('table-missing', 'no table is named', hint => 'For example: select atoll.share(''orders'')');
    end if;
    begin
        t := to_regclass(tbl);
    exception when others then
        perform atoll.refuse('table-missing', format('table name %s is malformed', quote_literal(tbl)), hint => 'Write schema.table, with quotes where SQL needs them.');
    end;
    if t is null then
        perform atoll.refuse('table-missing', format('table %s does not exist', tbl), hint => 'Name it with its schema and, if it has upper-case letters, in double quotes.');
    end if;
    return t;
end $$;

create or replace function atoll.check_owner(t regclass) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if not pg_has_role(session_user, (select relowner from pg_class where oid = t), 'usage') then
        perform atoll.refuse('not-owner', format('%s is not owner of %s', session_user, t), state => 'AT003');
    end if;
end $$;

-- The types that people have made and that a table's columns need, those first that others are made of.
create or replace function atoll.types_of(t regclass) returns text[]
language sql stable set search_path = pg_catalog as $$
    with recursive parts as (
        select a.attrelid as whole, y.oid from pg_attribute a join pg_type y on y.oid = a.atttypid where a.attnum > 0 and not a.attisdropped
    ), need (oid, depth) as (
        select p.oid, 0 from parts p where p.whole = t
        union
        select x.oid, n.depth + 1 from need n join pg_type y on y.oid = n.oid,
               lateral (select y.typelem as oid where y.typelem <> 0 union all select y.typbasetype where y.typbasetype <> 0
                        union all select p.oid from parts p where p.whole = y.typrelid and y.typtype = 'c') x
         where n.depth < 32
    ), made as (
        select y.oid, max(n.depth) as depth, s.nspname, format('%I.%I', s.nspname, y.typname) as name
          from need n join pg_type y on y.oid = n.oid join pg_namespace s on s.oid = y.typnamespace
         where (y.typtype in ('e', 'd') or y.typtype = 'c' and exists (select from pg_class c where c.oid = y.typrelid and c.relkind = 'c'))
           and s.nspname not in ('pg_catalog', 'information_schema')
           and not exists (select from pg_depend d where d.objid = y.oid and d.classid = 'pg_type'::regclass and d.deptype = 'e')
         group by y.oid, s.nspname, y.typname
    )
    select array(select distinct format('create schema if not exists %I', nspname) from made where nspname <> 'public')
        || array(select '-- type ' || m.name || ': ' || case y.typtype
            when 'e' then format('create type %s as enum (%s)', m.name, (select string_agg(quote_literal(e.enumlabel), ', ' order by e.enumsortorder) from pg_enum e where e.enumtypid = y.oid))
            when 'd' then format('create domain %s as %s%s%s%s', m.name, format_type(y.typbasetype, y.typtypmod), coalesce(' default ' || y.typdefault, ''),
                                 case when y.typnotnull then ' not null' else '' end,
                                 (select string_agg(format(' constraint %I %s', k.conname, pg_get_constraintdef(k.oid)), '' order by k.conname) from pg_constraint k
                                   where k.contypid = y.oid and k.contype = 'c'))
            else format('create type %s as (%s)', m.name, (select string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' order by a.attnum)
                                                             from pg_attribute a where a.attrelid = y.typrelid and a.attnum > 0 and not a.attisdropped)) end
                   from made m join pg_type y using (oid) order by m.depth desc, m.name);
$$;

-- Every node makes the indexes for searching by itself.
create or replace function atoll.is_for_search(index oid) returns boolean
language sql stable
return (select relname like 'atoll\_search\_%' from pg_class where oid = index);

-- How another node makes the table: a list of statements. Foreign keys follow when the table that they name is there.
create or replace function atoll.definition_of(t regclass) returns text
language sql stable set search_path = pg_catalog as $$
    select to_jsonb(array_remove(
        array(select distinct format('create extension if not exists %I', e.extname)
           from pg_attribute a join pg_type y on y.oid = a.atttypid
           join pg_depend d on d.objid in (y.oid, y.typelem) and d.classid = 'pg_type'::regclass and d.deptype = 'e'
           join pg_extension e on e.oid = d.refobjid
          where a.attrelid = t and a.attnum > 0 and not a.attisdropped)
        || atoll.types_of(t)
        || (select format('create schema if not exists %I', n.nspname) from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.oid = t and n.nspname <> 'public')
        || format('create table %s (%s)%s', atoll.qualified(t),
            (select string_agg(item, ', ' order by rank, item_no) from (
                select 1 as rank, a.attnum as item_no, format('%I %s%s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                       case when a.attcollation <> y.typcollation and a.attcollation <> 0
                            then (select format(' collate %I.%I', n.nspname, l.collname) from pg_collation l join pg_namespace n on n.oid = l.collnamespace where l.oid = a.attcollation) else '' end,
                       case when a.attgenerated = 's' then format(' generated always as (%s) stored', pg_get_expr(d.adbin, d.adrelid))
                            when a.attgenerated = 'v' then format(' generated always as (%s) virtual', pg_get_expr(d.adbin, d.adrelid))
                            when d.adbin is not null and pg_get_expr(d.adbin, d.adrelid) not like 'nextval(%' then ' default ' || pg_get_expr(d.adbin, d.adrelid)
                            else '' end,
                       case when a.attnotnull then ' not null' else '' end) as item
                  from pg_attribute a join pg_type y on y.oid = a.atttypid
                  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                 where a.attrelid = t and a.attnum > 0 and not a.attisdropped
                union all
                select 2, row_number() over (order by k.contype desc, k.conname), format('constraint %I %s', k.conname, pg_get_constraintdef(k.oid))
                  from pg_constraint k where k.conrelid = t and k.contype in ('p', 'u', 'c')) items),
            (select ' partition by ' || pg_get_partkeydef(t) from pg_class where oid = t and relkind = 'p'))
        || array(select format('create table %s partition of %s %s%s', atoll.qualified(p.relid), atoll.qualified(p.parentrelid),
                                  pg_get_expr(c.relpartbound, c.oid), case when c.relkind = 'p' then ' partition by ' || pg_get_partkeydef(c.oid) else '' end)
           from pg_partition_tree(t) p join pg_class c on c.oid = p.relid where p.level > 0 order by p.level, p.relid)
        || array(select pg_get_indexdef(i.indexrelid)
           from pg_index i where i.indrelid = t and not atoll.is_for_search(i.indexrelid) and not exists (select from pg_constraint k where k.conindid = i.indexrelid))
        || array(select format('-- if possible: alter table %s add constraint %I %s', atoll.qualified(t), k.conname, pg_get_constraintdef(k.oid))
           from pg_constraint k where k.conrelid = t and k.contype = 'f' and k.conparentid = 0), null))::text
$$;
