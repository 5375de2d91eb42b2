-- Merge: a change that arrived is joined with what is here.
--
-- The fast way holds when this node's rows are exactly what the writer saw (the overwritten stamps agree): then
-- nothing has to be decided. If a single row of the change disagrees, AT0FF undoes the attempt and the change
-- goes row by row through join.

create or replace function atoll.merge_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_merge}}(c atoll.change) returns void
language plpgsql security definer {{output}} as $body$
#variable_conflict use_column
declare
    n    {{table}};
    done bigint;
    {{declare_positions}}
begin
    if c.op = 'I' and c.cols = array[{{col_names}}] and c.prev = 0 and c.epochs is null then
        insert into {{table}} ({{cols}}) overriding system value
        select {{u_values}} from unnest({{all_arrays}}) r ({{cols}}) order by {{r_keys}}
        on conflict do nothing;
        get diagnostics done = row_count;
        if done = c.n then
            insert into {{side}} ({{keys}}, atoll_birth)
            select {{u_keys}}, coalesce(r.atoll_at, c.at) from unnest({{key_arrays}}, c.ats::bigint[]) r ({{keys}}, atoll_at)
            on conflict do nothing;
            get diagnostics done = row_count;
        end if;
    elsif c.op = 'U' and not ({{has_kept}}) and not ({{touches_unique}}) and c.cols <@ array[{{col_names}}] then
        if c.n = 1 then
            {{assign_changed}}
            update {{table}} m set {{set_changed}} where {{m_is_n}};
            get diagnostics done = row_count;
            if done = 1 then
                update {{side}} m set atoll_birth = m.atoll_birth{{set_changed_stamps}}
                 where {{m_is_n}} and m.atoll_birth is not null {{prev_agrees}};
                get diagnostics done = row_count;
            end if;
        else
            update {{table}} m set {{set_changed_r}}
              from (select * from unnest({{changed_arrays}}) r ({{cols}}) order by {{keys}}) r where {{m_is_r}};
            get diagnostics done = row_count;
            if done = c.n then
                update {{side}} m set atoll_birth = m.atoll_birth{{set_changed_stamps}}
                  from unnest({{key_arrays}}{{prev_arrays}}) r ({{keys}}{{prev_names}})
                 where {{m_is_r}} and m.atoll_birth is not null {{prev_agrees_r}};
                get diagnostics done = row_count;
            end if;
        end if;
    elsif c.op = 'D' and not ({{has_unique}} and exists (select from {{side}} where atoll_aside)) then
        with r as materialized (
            select * from unnest({{key_arrays}}, c.prevs[1]::bigint[]) r ({{keys}}, atoll_prev) order by {{keys}}
        ), gone as (
            delete from {{table}} m using r where {{m_is_r}} returning {{m_cols}}, r.atoll_prev
        )
        update {{side}} m set atoll_death = c.at, atoll_kept = jsonb_object({{stamp_names}}, {{r_texts}})
          from gone r
         where {{m_is_r}} and greatest(m.atoll_birth{{m_stamps}}) = coalesce(r.atoll_prev, c.prev);
        get diagnostics done = row_count;
    else
        done := -1;
    end if;
    if done <> c.n then
        raise sqlstate 'AT0FF';
    end if;
end $body$;

create or replace function {{fn_merge_slowly}}(c atoll.change) returns void
language plpgsql security definer {{output}} as $body$
declare
    r record;
begin
    for r in select row_key, delta from atoll.deltas(c, array[{{key_names}}], {{policies}})
              order by {{sort_by_key}}
    loop
        perform {{fn_join}}(r.row_key, r.delta);
    end loop;
end $body$;

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
        select e.i, u.col, e.v
          from unnest(c.cols, c.vals) u (col, literal), unnest(u.literal::text[]) with ordinality e (v, i)
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
begin
    if new.origin = atoll.me() then
        return null;
    end if;
    perform atoll.merge(new);
    if exists (select from atoll.cursor) then
        return new;
    end if;
    return null;
end $$;

-- Merges one change or parks it; says whether it was merged.
create or replace function atoll.merge(c atoll.change) returns boolean
language plpgsql security definer set search_path = pg_catalog as $$
declare
    way    text;
    code   text;
    reason text;
begin
    if c.version > 1 then
        perform atoll.park(c, 'version-unknown', format('change has wire version %s, this node knows 1', c.version));
        return false;
    end if;
    if c.at > ((atoll.clock_ms() + atoll.future_ms()) << 22) then
        perform atoll.park(c, 'stamp-in-future', format('stamp %s is further ahead of this clock than the bound', atoll.stamp_time(c.at)));
        return false;
    end if;
    foreach way in array array['fast', 'careful'] loop
        begin
            if way = 'fast' then
                perform atoll_side.dispatch(c);
            else
                perform atoll_side.dispatch_slowly(c);
            end if;
            if c.tbl = 'atoll.shared_table' then
                perform atoll.install_tables();
            end if;
            way := 'done';
        exception when others then
            -- Changes merged before in this transaction hold locks too. Only giving them up ends the deadlock: the
            -- apply worker starts the transaction again.
            if sqlstate = '40P01' and current_setting('atoll.merging', true) = 'on' then
                raise;
            end if;
            get stacked diagnostics reason = message_text, code = constraint_name;
            code := coalesce(nullif(code, ''), sqlstate);
        end;
        if way = 'done' then
            perform set_config('atoll.merging', 'on', true);
            return true;
        end if;
    end loop;
    perform atoll.park(c, code, reason);
    return false;
end $$;

create or replace function atoll.future_ms() returns bigint
language sql stable
return (select extract(epoch from value::interval) * 1000 from atoll.setting where name = 'future_bound')::bigint;

-- One case per shared table, so that a change finds its functions without dynamic SQL.
create or replace function atoll.render_dispatch() returns void
language plpgsql set search_path = pg_catalog as $$
declare
    way text;
begin
    foreach way in array array['merge', 'merge_slowly'] loop
        execute format($f$
            create or replace function atoll_side.%I(c atoll.change) returns void language plpgsql set search_path = pg_catalog as $body$
            begin
                case c.tbl
                    %s
                    else perform atoll.refuse('table-unknown', format('table %%s is not shared here', c.tbl), state => 'AT002');
                end case;
            end $body$ $f$,
            case way when 'merge' then 'dispatch' else 'dispatch_slowly' end,
            (select coalesce(string_agg(format('when %L then perform %s(c);', name, atoll.generated(side, way)), E'\n'), '')
               || case way when 'merge' then ' when '''' then perform atoll.seeded();' else ' when '''' then null;' end from atoll.local_table));
    end loop;
end $$;
