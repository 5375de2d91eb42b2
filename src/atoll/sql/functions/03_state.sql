-- The state of a row, and how two states of it join. This file is what "converges" means; the capture and
-- merge functions are faster ways to the same result.
--
-- A state is jsonb:
--   b  birth, the stamp of the latest INSERT           d  death, the stamp of the latest DELETE
--   e  epoch, the death that the latest INSERT had seen; columns with a policy start anew with it
--   t  {column: stamp of its latest write}             v  {column: value as text}; absent where it is not known,
--                                                         as for a row that left this node's scopes
--   x  {column: what its policy keeps}
--        counter        {node: [stamp, that node's part of the sum]}
--        set, document  {element or key, as JSON text: [stamp, value] or [stamp] when removed}
--                       and under the empty key whether the column is not null
--        first          [stamp, value]
-- Joining takes the later of each; it is commutative, associative and idempotent.

-- The later of two stamped entries; a tie goes to the greater text, so that it goes the same way everywhere.
create or replace function atoll.later(a jsonb, b jsonb) returns jsonb
language sql immutable parallel safe
return case
    when a is null then b
    when b is null then a
    when (a->>0)::bigint > (b->>0)::bigint then a
    when (a->>0)::bigint < (b->>0)::bigint then b
    when a::text collate "C" >= b::text collate "C" then a
    else b
end;

create or replace function atoll.join_entries(a jsonb, b jsonb) returns jsonb
language sql immutable parallel safe
return (select coalesce(jsonb_object_agg(key, atoll.later(l.value, r.value)), '{}')
          from jsonb_each(coalesce(a, '{}')) l full join jsonb_each(coalesce(b, '{}')) r using (key));

create or replace function atoll.join_first(a jsonb, b jsonb) returns jsonb
language sql immutable parallel safe
return case
    when a is null then b
    when b is null then a
    when (a->>0)::bigint < (b->>0)::bigint then a
    when (a->>0)::bigint > (b->>0)::bigint then b
    when a::text collate "C" <= b::text collate "C" then a
    else b
end;

create or replace function atoll.latest(state jsonb) returns bigint
language sql immutable parallel safe
return greatest((state->>'b')::bigint,
                (select max(value::bigint) from jsonb_each_text(coalesce(state->'t', '{}'))));

-- A birth that is not later than the epoch belongs to the life before: the INSERT has still to come.
create or replace function atoll.is_alive(state jsonb) returns boolean
language sql immutable parallel safe
return coalesce((state->>'b')::bigint > coalesce((state->>'e')::bigint, 0)
                and atoll.latest(state) > coalesce((state->>'d')::bigint, 0), false);

-- Values that are equal but written differently (0.0 and -0.0, 1 day and 24 hours) go by their text, so that it
-- does not matter which of them comes first.
create or replace function atoll.fold(policy jsonb, a text, b text) returns text
language plpgsql stable parallel safe set search_path = pg_catalog as $$
declare
    folded text;
begin
    if a is null then return b; end if;
    if b is null then return a; end if;
    execute format('select (%s($1::%s, $2::%s))::text',
                   case policy->>'p' when 'max' then 'greatest' when 'min' then 'least' else policy->>'f' end,
                   policy->>'type', policy->>'type')
       into folded using least(a collate "C", b), greatest(a collate "C", b);
    return folded;
end $$;

-- A set is a jsonb array without repetition and in order, so that equal sets are equal bytes.
create or replace function atoll.as_set(value jsonb) returns jsonb
language plpgsql immutable strict parallel safe set search_path = pg_catalog as $$
begin
    if jsonb_typeof(value) <> 'array' then
        perform atoll.refuse('set-malformed', format('value of a set is not an array but %s', jsonb_typeof(value)),
                             hint => 'For example: ["red", "ripe"]', state => 'AT003');
    end if;
    return (select coalesce(jsonb_agg(e::jsonb order by e::jsonb, e collate "C"), '[]')
              from (select distinct e::text from jsonb_array_elements(value) e) s);
end $$;

create or replace function atoll.as_document(value jsonb) returns jsonb
language plpgsql immutable strict parallel safe set search_path = pg_catalog as $$
begin
    if jsonb_typeof(value) <> 'object' then
        perform atoll.refuse('document-malformed', format('value of a document is not an object but %s', jsonb_typeof(value)),
                             hint => 'For example: {"colour": "red"}', state => 'AT003');
    end if;
    return value;
end $$;

-- What a policy keeps of a plain value that was written at `stamp`.
create or replace function atoll.explicit(policy jsonb, stamp bigint, value text) returns jsonb
language plpgsql immutable parallel safe set search_path = pg_catalog as $$
begin
    case policy->>'p'
        when 'counter' then
            return case when value is null then '{}'
                        else jsonb_build_object(atoll.stamp_node(stamp)::text, jsonb_build_array(stamp, value)) end;
        when 'first' then
            return case when value is not null then jsonb_build_array(stamp, value) end;
        when 'set' then
            return case when value is null then '{}' else
                (select jsonb_object_agg(k, jsonb_build_array(stamp, true))
                   from (select '' as k union select e::text from jsonb_array_elements(value::jsonb) e) s) end;
        when 'document' then
            return case when value is null then '{}' else
                (select jsonb_object_agg(k, jsonb_build_array(stamp, v))
                   from (select '' as k, 'true'::jsonb as v
                         union all select to_json(key)::text, e.value from jsonb_each(value::jsonb) e) s) end;
        else
            return null;
    end case;
end $$;

-- The value that a policy shows for what it keeps.
create or replace function atoll.shown(policy jsonb, kept jsonb) returns text
language plpgsql stable parallel safe set search_path = pg_catalog as $$
declare
    total numeric;
begin
    case policy->>'p'
        when 'counter' then
            select sum((value->>1)::numeric) into total from jsonb_each(coalesce(kept, '{}'));
            if total is null then   -- greatest and least would pass over it
                return null;
            end if;
            return case policy->>'type'
                when 'smallint' then least(greatest(total, -32768), 32767)
                when 'integer' then least(greatest(total, -2147483648), 2147483647)
                when 'bigint' then least(greatest(total, -9223372036854775808), 9223372036854775807)
                else total end::text;
        when 'first' then
            return kept->>1;
        when 'set' then
            return (select case when bool_or(key = '') or count(*) > 0
                                then coalesce(jsonb_agg(key::jsonb order by key::jsonb, key collate "C") filter (where key <> ''), '[]')::text end
                      from jsonb_each(coalesce(kept, '{}')) where jsonb_array_length(value) = 2);
        when 'document' then
            return (select case when bool_or(key = '') or count(*) > 0
                                then coalesce(jsonb_object_agg(case when key <> '' then key::jsonb #>> '{}' end, value->1)
                                              filter (where key <> ''), '{}')::text end
                      from jsonb_each(coalesce(kept, '{}')) where jsonb_array_length(value) = 2);
        else
            return null;
    end case;
end $$;

-- What a local write of `new_value` over `old_value` adds to what a policy keeps.
create or replace function atoll.written(policy jsonb, stamp bigint, old_value text, new_value text, kept jsonb)
returns jsonb
language plpgsql immutable parallel safe set search_path = pg_catalog as $$
declare
    me text := atoll.stamp_node(stamp)::text;
begin
    case policy->>'p'
        when 'counter' then
            return jsonb_build_object(me, jsonb_build_array(stamp, (coalesce((kept->me->>1)::numeric, 0)
                + coalesce(new_value::numeric, 0) - coalesce(old_value::numeric, 0))::text));
        when 'first' then
            return case when new_value is not null then jsonb_build_array(stamp, new_value) end;
        when 'set', 'document' then
            return (select coalesce(jsonb_object_agg(coalesce(o.key, n.key),
                                        case when n.key is null then jsonb_build_array(stamp) else n.value end), '{}')
                      from jsonb_each(atoll.explicit(policy, stamp, old_value)) o
                      full join jsonb_each(atoll.explicit(policy, stamp, new_value)) n on n.key = o.key
                     where o.value is distinct from n.value);
        else
            return null;
    end case;
end $$;

-- Of two values with one stamp, the greater holds; any is more than none, also null.
create or replace function atoll.known_value(state jsonb, col text) returns text
language sql immutable parallel safe
return case when state->'v' ? col then coalesce('=' || (state->'v'->>col), '-') else '' end;

-- policies: {column: {"p": policy, "type": type, "f": merge function}} for every column that is not lww.
create or replace function atoll.join_state(policies jsonb, a jsonb, b jsonb) returns jsonb
language plpgsql stable parallel safe set search_path = pg_catalog as $$
declare
    behind  text;                       -- the side whose epoch has passed
    col     text;
    policy  jsonb;
    ta      bigint;
    tb      bigint;
    stamps  jsonb := '{}';
    vals    jsonb := '{}';
    kept    jsonb := '{}';
    one     jsonb;
    epoch_a bigint := coalesce((a->>'e')::bigint, 0);
    epoch_b bigint := coalesce((b->>'e')::bigint, 0);
begin
    behind := case when epoch_a < epoch_b then 'a' when epoch_b < epoch_a then 'b' end;
    for col in select jsonb_object_keys(coalesce(a->'t', '{}') || coalesce(b->'t', '{}')) loop
        ta := (a->'t'->>col)::bigint;
        tb := (b->'t'->>col)::bigint;
        policy := policies->col;
        if policy is null then
            if tb is null or ta > tb
               or (ta = tb and atoll.known_value(a, col) collate "C" >= atoll.known_value(b, col)) then
                vals := vals || case when a->'v' ? col then jsonb_build_object(col, a->'v'->col) else '{}' end;
            else
                vals := vals || case when b->'v' ? col then jsonb_build_object(col, b->'v'->col) else '{}' end;
            end if;
        else
            if behind = 'a' then ta := null; elsif behind = 'b' then tb := null; end if;
            continue when ta is null and tb is null;
            if policy->>'p' in ('max', 'min', 'function') then
                vals := vals || jsonb_build_object(col, atoll.fold(policy,
                    case when ta is not null then a->'v'->>col end, case when tb is not null then b->'v'->>col end));
            else
                one := case when policy->>'p' = 'first'
                    then atoll.join_first(case when ta is not null then nullif(a->'x'->col, 'null') end,
                                          case when tb is not null then nullif(b->'x'->col, 'null') end)
                    else atoll.join_entries(case when ta is not null then a->'x'->col end,
                                            case when tb is not null then b->'x'->col end) end;
                if one is not null then
                    kept := kept || jsonb_build_object(col, one);
                end if;
            end if;
        end if;
        stamps := stamps || jsonb_build_object(col, greatest(ta, tb));
    end loop;
    return jsonb_strip_nulls(jsonb_build_object(
               'b', greatest((a->>'b')::bigint, (b->>'b')::bigint),
               'd', greatest((a->>'d')::bigint, (b->>'d')::bigint),
               'e', nullif(greatest(epoch_a, epoch_b), 0)))
        || jsonb_build_object('t', stamps, 'v', vals, 'x', kept);
end $$;
