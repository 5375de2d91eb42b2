-- Merge: a change that arrived is joined with what is here.
--
-- The fast way holds when this node's rows are exactly what the writer saw (the overwritten stamps agree): then
-- nothing has to be decided. If a single row of the change disagrees, AT0FF undoes the attempt and the change
-- goes row by row through join.

create or replace function atoll.merge_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_merge}}(c atoll.change) returns boolean
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    done    bigint := -1;
    atoll_i integer[];      -- where in the change each column is
begin
    if c.n = 1 then
        {{merge_one}}
    else
        {{merge_many}}
    end if;
    if done <> c.n then
        raise sqlstate 'AT0FF';
    end if;
    return true;
end $body$;

create or replace function {{fn_merge_slowly}}(c atoll.change) returns boolean
language plpgsql {{output}} as $body$
declare
    r record;
begin
    for r in select row_key, delta from atoll.deltas(c, array[{{key_names}}], {{policies}})
              order by {{sort_by_key}}
    loop
        perform {{fn_join}}(r.row_key, r.delta);
    end loop;
    return true;
end $body$;

$template$ $sql$;

-- The fast way; a key that is here already is an error like any other, which the caller takes for a no. A change of
-- one row is read as plain values, a change of many is unnested, in the order of keys.
create or replace function atoll.merge_rows_template() returns text
language sql immutable as $sql$ select $template$
        if c.op = 'I' and c.cols = array[{{col_names}}] and c.prev = 0 and c.epochs is null then
            insert into {{table}} ({{cols}}) overriding system value
            select {{u_values}} from {{arrived_rows}} {{in_order}};
            get diagnostics done = row_count;
            if done = c.n then
                insert into {{side}} ({{keys}}, atoll_birth) select {{u_keys}}, coalesce(r.atoll_at, c.at) from {{arrived_births}};
                get diagnostics done = row_count;
            end if;
        elsif c.op = 'U' and not {{needs_care}} and c.cols <@ array[{{col_names}}] then
            atoll_i := array[{{positions}}];
            update {{table}} m set {{set_changed}} from (select * from {{arrived_values}} {{in_order}}) r where {{m_is_r}};
            get diagnostics done = row_count;
            if done = c.n then
                update {{side}} m set atoll_birth = m.atoll_birth{{set_changed_stamps}}
                  from {{arrived_prevs}} where {{m_is_r}} and m.atoll_birth is not null {{prev_agrees}}{{and_moved_before}};
                get diagnostics done = row_count;
            end if;
        elsif c.op = 'D' and not ({{has_unique}} and exists (select from {{side}} where atoll_aside)) then
            with r as materialized (
                select * from {{arrived_deaths}} {{in_order}}
            ), gone as (
                delete from {{table}} m using r where {{m_is_r}} returning {{m_cols}}, r.atoll_prev
            )
            update {{side}} m set atoll_death = c.at, atoll_kept = jsonb_object({{stamp_names}}, {{r_texts}})
              from gone r
             where {{m_is_r}} and greatest(m.atoll_birth{{m_stamps}}) = coalesce(r.atoll_prev, c.prev);
            get diagnostics done = row_count;
        end if;
$template$ $sql$;

-- A change, row by row, as what each row's state joins with.
create or replace function atoll.deltas(c atoll.change, key_names text[], policies jsonb)
returns table (row_key jsonb, delta jsonb)
language plpgsql stable set search_path = pg_catalog as $$
declare
    unknown text;
begin
    select u into unknown from unnest(c.cols) u
     where u <> '@state' and not exists (select from atoll.local_column l where l.tbl = c.tbl and l.name = u) limit 1;
    if unknown is not null then
        perform atoll.refuse('column-unknown', format('could not merge a change of %s: column "%s" is not known here', c.tbl, unknown),
                             state => 'AT002');
    end if;
    return query
    with cell as (
        -- In an array a boolean is t or f, as a text it is true or false: a state holds the latter.
        select e.i, u.col, case when l.type = 'boolean' then e.v::boolean::text else e.v end as v
          from unnest(c.cols, c.vals) u (col, literal) left join atoll.local_column l on l.tbl = c.tbl and l.name = u.col,
               unnest(u.literal::text[]) with ordinality e (v, i)
    ), seen as (
        select e.i, jsonb_object_agg(u.col, e.v) as prevs
          from unnest(c.cols[cardinality(key_names) + 1:], c.prevs) u (col, literal),
               unnest(u.literal::bigint[]) with ordinality e (v, i)
         where c.op = 'U' and c.prevs is not null
         group by e.i
    ), flat as (
        select cell.i, jsonb_object_agg(col, v) filter (where col = any (key_names)) as k,
               coalesce(jsonb_object_agg(col, v) filter (where col <> all (key_names)), '{}') as v,
               coalesce((c.ats::bigint[])[cell.i], c.at) as at,
               coalesce((c.epochs::bigint[])[cell.i], 0) as e,
               coalesce((c.prevs[1]::bigint[])[cell.i], c.prev) as p
          from cell group by cell.i
    )
    select f.k,
           case c.op
               when 'S' then (f.v->>'@state')::jsonb
               when 'X' then (f.v->>'@state')::jsonb
               when 'D' then jsonb_build_object('d', f.at, 'p', coalesce(f.p, 0))
               else jsonb_strip_nulls(jsonb_build_object('b', case when c.op = 'I' then f.at end, 'e', nullif(f.e, 0)))
                 || jsonb_build_object('v', f.v,
                        't', (select coalesce(jsonb_object_agg(key, f.at), '{}') from jsonb_each(f.v)),
                        'p', case when c.op = 'U' and s.prevs is not null then s.prevs
                                  else (select coalesce(jsonb_object_agg(key, coalesce(f.p, 0)), '{}') from jsonb_each(f.v)) end,
                        'x', (select coalesce(jsonb_object_agg(p.key, case when c.op = 'I' then atoll.explicit(p.value, f.at, f.v->>p.key)
                                                              else (f.v->>p.key)::jsonb end), '{}')
                                from jsonb_each(policies) p
                               where f.v ? p.key and p.value->>'p' in ('counter', 'first', 'set', 'document')))
           end
      from flat f left join seen s using (i);
end $$;

-- The trigger on arriving changes. Whatever goes wrong, the link goes on: the change is parked with its reason.
create or replace function atoll.arrive() returns trigger
language plpgsql security definer set search_path = pg_catalog set enable_seqscan = off set enable_hashjoin = off
set enable_mergejoin = off set plan_cache_mode = force_generic_plan as $$
declare
    merged boolean;
begin
    if new.origin = atoll.me() then
        return case when current_setting('atoll.tells', true) = 'on' then new end;   -- an echo, or said in reply
    elsif atoll.relays() and exists (select from atoll.change h where h.origin = new.origin and h.seq = new.seq) then
        return null;   -- it came another way before
    elsif new.target is not null and atoll.is_absent(new.origin) then
        return null;   -- a copy by who may hold what is forgotten
    end if;
    if new.version = 1 and (new.at >> 22) <= atoll.clock_ms() then
        begin
            merged := case when new.target is null then atoll_side.dispatch(new) else atoll.take_copy(new) end;
        exception when others then
            merged := atoll.merge_slowly(new, sqlstate);
        end;
    else
        merged := atoll.merge(new);
    end if;
    -- Kept to be passed on, or for the feeds, once: what was sent anew after a slot was lost has been here before.
    if atoll.relays() and new.target is null
       or atoll.is_followed() and new.op <> 'M' and not exists (select from atoll.change h where h.origin = new.origin and h.seq = new.seq) then
        new.via := atoll.came_from();
        new.way := coalesce((select left(n.role, 1) from atoll.neighbour n where n.number = new.via), 's');
        return new;
    end if;
    return null;
end $$;

-- Merges one change or parks it; says whether it was merged.
create or replace function atoll.merge(c atoll.change) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
begin
    if c.version > 1 then
        perform atoll.park(c, 'version-unknown', format('change has wire version %s, this node knows 1', c.version));
        return false;
    elsif c.at > ((atoll.clock_ms() + atoll.future_ms()) << 22) then
        perform atoll.park(c, 'stamp-in-future', format('stamp %s is further ahead of this clock than the bound', atoll.stamp_time(c.at)));
        return false;
    end if;
    return case when c.target is null then atoll_side.dispatch(c) else atoll.take_copy(c) end;
exception when others then
    return atoll.merge_slowly(c, sqlstate);
end $$;

-- What is left to do when the fast way failed with `failure`.
create or replace function atoll.merge_slowly(c atoll.change, failure text) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
declare
    code   text;
    reason text;
begin
    perform atoll.yield_to_application(failure);
    begin
        return atoll_side.dispatch_slowly(atoll.adapt(c));
    exception when others then
        get stacked diagnostics failure = returned_sqlstate, reason = message_text, code = constraint_name;
    end;
    perform atoll.yield_to_application(failure);
    perform atoll.park(c, coalesce(nullif(code, ''), failure), reason);
    return false;
end $$;

-- Changes merged before in this transaction hold locks too. Only giving them up ends a deadlock: the apply worker
-- starts the transaction again.
create or replace function atoll.yield_to_application(failure text) returns void
language plpgsql set search_path = pg_catalog as $$
begin
    if failure = '40P01' and exists (select from pg_locks l join atoll.local_table t on t.relid = l.relation
                                      where l.pid = pg_backend_pid() and l.mode = 'RowExclusiveLock' and l.granted) then
        raise exception using errcode = failure, message = 'deadlock with an application: the transaction starts again';
    end if;
end $$;

create or replace function atoll.future_ms() returns bigint
language sql stable
return (select extract(epoch from value::interval) * 1000 from atoll.setting where name = 'future_bound')::bigint;

-- A search tree over the shared tables, so that a change finds its functions without dynamic SQL and without
-- asking for one table after the other.
create or replace function atoll.render_dispatch() returns void
language plpgsql set search_path = pg_catalog as $$
declare
    way  text;
    tree text;
begin
    foreach way in array array['merge', 'merge_slowly'] loop
        tree := atoll.branches(way, (select array_agg(name order by name collate "C") from atoll.local_table));
        execute format($f$
            create or replace function atoll_side.%I(c atoll.change) returns boolean language plpgsql as $body$
            begin
                %s
                if c.tbl = '' then
                    %s
                    return true;
                end if;
                perform atoll.refuse('table-unknown', format('table %%s is not shared here', c.tbl), state => 'AT002');
            end $body$ $f$,
            case way when 'merge' then 'dispatch' else 'dispatch_slowly' end, tree,
            case way when 'merge' then 'if c.op = ''M'' then perform atoll.hear(c); else perform atoll.seeded(c); end if;' end);
    end loop;
end $$;

create or replace function atoll.branches(way text, tables text[]) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    middle constant integer := cardinality(tables) / 2;
begin
    if middle > 0 then
        return format(E'if c.tbl <= %L collate "C" then\n%s\nelse\n%s\nend if;', tables[middle],
                      atoll.branches(way, tables[:middle]), atoll.branches(way, tables[middle + 1:]));
    end if;
    -- The lock comes first: a migration makes the function anew, and what waits for it must not go on with the old one.
    return (select format(E'if c.tbl = %L then\nlock table only %s in row exclusive mode;\n%s\nreturn %s(c);\nend if;', l.name, l.name,
                          case when l.name in ('atoll.shared_table', 'atoll.schema_change') then format('perform %s(c); perform atoll.install_tables(); return true;',
                                                                              atoll.generated(l.side, way)) end,
                          atoll.generated(l.side, way))
              from atoll.local_table l where l.name = tables[1]);
end $$;
