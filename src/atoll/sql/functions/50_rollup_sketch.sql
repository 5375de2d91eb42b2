-- Sketches that rollups keep: they merge, and what was added to a histogram can be taken out of it again.
--
-- A histogram counts values by logarithmic bucket, with the codes of analytics/sketch.py: quantiles are within 1 % of a
-- value that is there. Distinct values are known by the 512 least hashes: exact below that, with a standard error of
-- 4.4 % above. A hash cannot be taken out, for another row may have the same value: then rows are looked at again.

-- The code of a value's bucket; codes are ordered as the values are.
create or replace function atoll.sketch_code(v double precision) returns integer
language sql immutable parallel safe
return case
    when v = 0 then 0
    when v = 'NaN'::float8 then 200001
    when v = 'Infinity'::float8 then 200000
    when v = '-Infinity'::float8 then -200000
    when v > 0 then 50001 + ceil(ln(v) / 0.020000666706669435)::integer
    else -(50001 + ceil(ln(-v) / 0.020000666706669435)::integer)
end;

-- What a code stands for.
create or replace function atoll.sketch_value(code integer) returns double precision
language sql immutable parallel safe
return case
    when code = 0 then 0
    when code = 200001 then 'NaN'
    when abs(code) = 200000 then sign(code) * 'Infinity'::float8
    else sign(code) * exp((abs(code) - 50001) * 0.020000666706669435) * 0.99
end;

-- Codes, each with a sign: what is added and what is taken out.
create or replace function atoll.tally(codes integer[], signs integer[]) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    if cardinality(codes) = 1 then
        return jsonb_build_object(codes[1]::text, signs[1]);
    end if;
    return (select jsonb_object_agg(code, n) from (select code, sum(sign) as n from unnest(codes, signs) u (code, sign) group by code) t where n <> 0);
end $$;

create or replace function atoll.add_tallies(tallies jsonb[]) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    if cardinality(tallies) = 1 then
        return tallies[1];
    end if;
    return (select jsonb_object_agg(key, n) from (select e.key, sum(e.value::bigint) as n from unnest(tallies) t, jsonb_each(t) e group by e.key) t where n <> 0);
end $$;

-- As percentile_cont says it, over what the codes stand for.
create or replace function atoll.tally_quantile(tally jsonb, share double precision) returns double precision
language plpgsql immutable parallel safe as $$
declare
    low  double precision;
    high double precision;
    part double precision;
begin
    select atoll.sketch_value(min(code) filter (where upto > floor(place))), atoll.sketch_value(min(code) filter (where upto > ceil(place))), max(place - floor(place))
      into low, high, part
      from (select code, sum(n) over (order by code) as upto, share * (sum(n) over () - 1) as place
              from (select key::integer as code, value::bigint as n from jsonb_each(tally)) e) c;
    return case when low = high or part = 0 then low else low + (high - low) * part end;
end $$;

create or replace function atoll.value_hash(value text) returns bigint
language sql immutable parallel safe
return ('x' || left(md5(value), 16))::bit(64)::bigint;

create or replace function atoll.least_hashes(hashes bigint[]) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    if cardinality(hashes) = 1 then
        return jsonb_build_array(hashes[1]);
    end if;
    return (select jsonb_agg(h order by h) from (select distinct h from unnest(hashes) h order by h limit 512) l);
end $$;

create or replace function atoll.join_hashes(lists jsonb[]) returns jsonb
language plpgsql immutable parallel safe as $$
begin
    if cardinality(lists) = 1 then
        return lists[1];
    end if;
    return (select jsonb_agg(h order by h) from (select distinct h::bigint from unnest(lists) l, jsonb_array_elements(l) h order by 1 limit 512) l (h));
end $$;

create or replace function atoll.count_hashes(list jsonb) returns bigint
language sql immutable parallel safe
return case
    when list is null then 0
    when jsonb_array_length(list) < 512 then jsonb_array_length(list)
    else round(511 * 18446744073709551616.0 / ((list->>511)::numeric + 9223372036854775808.0))::bigint
end;
