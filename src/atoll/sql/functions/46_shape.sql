-- The shape of a shared table, and what has changed about it since this node last looked.
--
-- A statement that alters a table is not understood by its text. The table's shape before and after are compared,
-- column by column by their numbers in the catalog, so that it does not matter who altered it and how.

create or replace function atoll.shape_now(t oid) returns jsonb
language sql stable set search_path = pg_catalog as $$
    select jsonb_build_object(
        'columns', (select coalesce(jsonb_object_agg(a.attnum, jsonb_strip_nulls(jsonb_build_object(
                'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
                'collation', case when a.attcollation <> 0 and a.attcollation <> y.typcollation
                                  then (select format('%I.%I', n.nspname, l.collname) from pg_collation l join pg_namespace n on n.oid = l.collnamespace where l.oid = a.attcollation) end,
                'default', case when a.attgenerated = '' then pg_get_expr(d.adbin, d.adrelid) end,
                'generated', nullif(a.attgenerated, ''), 'expression', case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end,
                'identity', nullif(a.attidentity, '')))), '{}')
           from pg_attribute a join pg_type y on y.oid = a.atttypid left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
          where a.attrelid = t and a.attnum > 0 and not a.attisdropped),
        'constraints', (select coalesce(jsonb_object_agg(k.conname, pg_get_constraintdef(k.oid)), '{}')
           from pg_constraint k where k.conrelid = t and k.contype in ('u', 'c', 'f', 'x')),
        'indexes', (select coalesce(jsonb_object_agg(c.relname, replace(pg_get_indexdef(i.indexrelid), ' ON ONLY ', ' ON ')), '{}')
           from pg_index i join pg_class c on c.oid = i.indexrelid
          where i.indrelid = t and i.indisvalid and not i.indisprimary and not atoll.is_for_search(i.indexrelid) and not exists (select from pg_constraint k where k.conindid = i.indexrelid and k.contype in ('u', 'x'))),
        'key', (select pg_get_indexdef(i.indexrelid) from pg_index i where i.indrelid = t and i.indisprimary))
$$;

-- What rows that are there already show in a column that was added, where that is the same for all of them.
create or replace function atoll.fill_of(t oid, num integer) returns text
language sql stable set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' as $$
    select case when o.atttypid = 'boolean'::regtype then (a.attmissingval::text::boolean[])[1]::text else (a.attmissingval::text::text[])[1] end
      from pg_attribute o
      join (select relid from pg_partition_tree(t) where isleaf union select t) r on true
      join pg_attribute a on a.attrelid = r.relid and a.attname = o.attname and a.atthasmissing
     where o.attrelid = t and o.attnum = num limit 1
$$;

-- Steps from one shape to another, in an order in which they can be taken.
create or replace function atoll.schema_ops(t oid, was jsonb, becomes jsonb) returns jsonb
language sql stable set search_path = pg_catalog as $$
    with pair as (
        select num::integer, o.value as o, n.value as n from jsonb_each(was->'columns') o (num, value) full join jsonb_each(becomes->'columns') n (num, value) using (num)
    ), name as (
        select kind, list, name from (values ('constraint', 'constraints'), ('index', 'indexes')) k (kind, list),
               lateral jsonb_object_keys((was->list) || (becomes->list)) name
    ), step as (
        select 1 as rank, num as place, jsonb_build_object('do', 'rename', 'column', o->'name', 'to', n->'name') as op from pair where o->'name' <> n->'name'
        union all
        select 3, num, jsonb_build_object('do', 'drop', 'column', o->'name') from pair where n is null
        union all
        select 4, num, n - 'name' || jsonb_build_object('do', 'add', 'column', n->'name')
                       || jsonb_strip_nulls(jsonb_build_object('fill', atoll.fill_of(t, num))) from pair where o is null
        union all
        select 5, num, jsonb_build_object('do', 'type', 'column', n->'name', 'type', n->'type', 'collation', n->'collation', 'was', o->'type')
          from pair where (o->'type', o->'collation') is distinct from (n->'type', n->'collation') and o is not null and n is not null
        union all
        select 6, num, jsonb_build_object('do', 'default', 'column', n->'name', 'default', n->'default')
          from pair where o->'default' is distinct from n->'default' and o is not null and n is not null and coalesce(n->>'default', '') not like 'nextval(%'
        union all
        select 7, num, jsonb_build_object('do', 'not_null', 'column', n->'name', 'not_null', n->'not_null')
          from pair where o->'not_null' <> n->'not_null'
        union all
        select case when becomes->list ? name then 8 else 2 end, 0, jsonb_build_object('do', kind, 'name', name, 'def', becomes->list->name)
          from name where was->list->name is distinct from becomes->list->name
    )
    select coalesce(jsonb_agg(op order by rank, place), '[]') from step
$$;

-- What may not be done to a table while it is shared. Says the first reason.
create or replace function atoll.check_reshaped(l atoll.local_table, was jsonb, becomes jsonb, ops jsonb) returns void
language plpgsql stable set search_path = pg_catalog as $$
declare
    bad text;
    op  jsonb;
    c   atoll.local_column;
begin
    if not atoll.is_table(l.name, l.relid) then
        perform atoll.refuse('table-renamed', format('cannot rename shared table %s or move it to another schema', l.name),
            'The other nodes know it by its name.', format('End the sharing with atoll.unshare(%L), rename the table on every node, and share it again.', l.name));
    end if;
    for op in select * from jsonb_array_elements(ops) loop
        select * into c from atoll.local_column k where k.tbl = l.name and k.name = op->>'column';
        if (c.is_key or c.policy = 'scope') and op->>'do' in ('rename', 'drop', 'type') then
            perform atoll.refuse('key-reshaped', format('cannot change column "%s" of shared table %s: it is part of the key or says where rows go', c.name, l.name),
                'Rows are known by their key on every node.', 'Make a new table with the new key, and copy the rows.');
        elsif op->>'do' = 'type' and c.policy not in ('lww', 'key') then
            perform atoll.refuse('policy-reshaped', format('cannot change the type of column "%s" of shared table %s: it merges as %s', c.name, l.name, c.policy),
                hint => 'Add a column of the new type, copy the values, and drop the old one.');
        elsif op->>'do' = 'add' and (op ? 'identity' or op ? 'default' and not op ? 'fill') then
            perform atoll.refuse('default-volatile', format('cannot add column "%s" to shared table %s with a default that is another one for each row', op->>'column', l.name),
                'Every node would fill it with other values.', 'Add the column without a default, set the default with a second statement, and fill the column with an UPDATE.');
        elsif op->>'do' = 'constraint' and op->>'def' like any (array['%DEFERRABLE%', '%NOT VALID%']) then
            perform atoll.refuse('constraint-unsupported', format('cannot add constraint "%s" to shared table %s: it is deferrable or not valid', op->>'name', l.name));
        end if;
    end loop;
    select n.value->>'name' into bad from jsonb_each(was->'columns') o join jsonb_each(becomes->'columns') n using (key)
     where (o.value->'generated', o.value->'expression', o.value->'identity') is distinct from (n.value->'generated', n.value->'expression', n.value->'identity') limit 1;
    if bad is not null or was->'key' <> becomes->'key' then
        perform atoll.refuse('table-shape', format('cannot change the key of shared table %s, or how a column of it is generated', l.name),
            'The other nodes would go on with the old ones.', format('End the sharing with atoll.unshare(%L), change the table on every node, and share it again.', l.name));
    end if;
    perform atoll.check_shareable(l.relid, l.kind, '{}');
end $$;

create or replace function atoll.is_widening(was text, becomes text) returns boolean
language sql immutable
return (was, becomes) in (('smallint', 'integer'), ('smallint', 'bigint'), ('integer', 'bigint'))
    or was like 'character varying%' and becomes in ('text', 'character varying')
    or was like 'character varying(%' and becomes like 'character varying(%'
       and substring(was from '\d+')::integer <= substring(becomes from '\d+')::integer;

-- Can nodes with the old and with the new shape work side by side?
create or replace function atoll.is_destructive(op jsonb) returns boolean
language sql immutable
return coalesce(case op->>'do'
    when 'drop' then true
    when 'add' then (op->>'not_null')::boolean and not op ? 'fill' and not op ? 'generated'
    when 'not_null' then (op->>'not_null')::boolean
    when 'type' then not atoll.is_widening(op->>'was', op->>'type')
    when 'constraint' then op->>'def' like 'UNIQUE%'
    when 'index' then op->>'def' like 'CREATE UNIQUE%'
end, false);

-- Is every member there to follow at once, with nothing of this table waiting? Names those that are not.
create or replace function atoll.not_ready(of_table text) returns text
language sql stable set search_path = pg_catalog
return nullif(concat_ws(', ',
    (select string_agg(p.name, ', ' order by p.number) from atoll.peers() p
       left join atoll.neighbour n on n.number = p.number
       left join atoll.link_state k on k.peer = p.number
      where case when n.number is null and exists (select from atoll.neighbour)
                 then not exists (select from atoll.heard h where h.origin = p.number and h.heard_at > now() - interval '5 min')
                 else coalesce(n.in_use, true) and (k.state is distinct from 'up' or k.seen_at < now() - interval '1 min') end),
    (select count(*) || ' parked changes of the table' from atoll.parked k where k.tbl = of_table having count(*) > 0)), '');
