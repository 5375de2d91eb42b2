-- What one asks of a series of buckets: is the latest value unusual, what is the level, what comes next. Aggregates, so that
-- they work over groups and over windows; all of them pass over nulls.

create or replace function atoll.robust_z_of(seen double precision[]) returns double precision
language sql immutable parallel safe as $$
    with past as (select v from unnest(seen[:cardinality(seen) - 1]) v),
    middle as (select percentile_cont(0.5) within group (order by v) as m, count(*) as n from past),
    spread as (select coalesce(nullif(1.4826 * percentile_cont(0.5) within group (order by abs(v - m)), 0), 1.2533 * avg(abs(v - m))) as s, m, n from past, middle group by m, n)
    select case when n < 4 then null when s > 0 then (seen[cardinality(seen)] - m) / s
                when seen[cardinality(seen)] = m then 0 else sign(seen[cardinality(seen)] - m) * 'Infinity'::float8 end from spread
$$;

create or replace function atoll.keep_value(seen double precision[], value double precision) returns double precision[]
language sql immutable parallel safe
return case when value is null then seen when cardinality(seen) >= 10000 then seen[2:] || value else seen || value end;

-- How far the last value lies from the median of those before it, in standard deviations as the median deviation tells
-- them; where that is 0, as the mean deviation does. Null before there are four to compare with.
create or replace aggregate atoll.robust_z(value double precision) (
    sfunc = atoll.keep_value, stype = double precision[], initcond = '{}', finalfunc = atoll.robust_z_of);

create or replace function atoll.check_weight(weight double precision) returns double precision
language plpgsql immutable parallel safe as $$
begin
    if weight is null or weight <= 0 or weight > 1 then
        perform atoll.refuse('weight-outside', format('weight %s is not above 0 and up to 1', weight), hint => 'What the latest value weighs against all before it, such as 0.3.');
    end if;
    return weight;
end $$;

create or replace function atoll.smooth_step(level double precision, value double precision, alpha double precision) returns double precision
language sql immutable parallel safe
return case when value is null then level when level is null then value else level + atoll.check_weight(alpha) * (value - level) end;

-- The level after the last value: each weighs (1 - alpha) of the one after it.
create or replace aggregate atoll.smooth(value double precision, alpha double precision) (
    sfunc = atoll.smooth_step, stype = double precision);

-- Level, slope, sum of squared errors, steps: double exponential smoothing (Holt).
create or replace function atoll.trend_step(s double precision[], value double precision, alpha double precision, beta double precision) returns double precision[]
language plpgsql immutable parallel safe as $$
declare
    error double precision;
begin
    if value is null then
        return s;
    elsif s is null then
        perform atoll.check_weight(alpha), atoll.check_weight(beta);
        return array[value, 0, 0, 0];
    elsif s[4] = 0 then
        return array[value, value - s[1], 0, 1];
    end if;
    error := value - s[1] - s[2];
    return array[s[1] + s[2] + alpha * error, s[2] + alpha * beta * error, s[3] + error * error, s[4] + 1];
end $$;

create or replace function atoll.trend_level(s double precision[]) returns double precision
language sql immutable parallel safe
return s[1];

create or replace aggregate atoll.smooth_trend(value double precision, alpha double precision, beta double precision) (
    sfunc = atoll.trend_step, stype = double precision[], finalfunc = atoll.trend_level);

-- The next steps of a series: level and slope go on. low and high are two standard deviations of the errors so far apart
-- from it, wider with each step.
create or replace function atoll.forecast(series double precision[], steps integer, alpha double precision default 0.5, beta double precision default 0.1)
returns table (step integer, value double precision, low double precision, high double precision)
language plpgsql immutable parallel safe as $$
declare
    s      double precision[];
    v      double precision;
    spread double precision;
begin
    if steps is null or steps < 1 or steps > 10000 then
        perform atoll.refuse('steps-outside', format('cannot forecast %s steps', steps), hint => 'From 1 to 10,000.');
    end if;
    perform atoll.check_weight(alpha), atoll.check_weight(beta);
    foreach v in array coalesce(series, '{}') loop
        s := atoll.trend_step(s, v, alpha, beta);
    end loop;
    if s is null then
        return;
    end if;
    spread := 2 * sqrt(s[3] / greatest(s[4] - 1, 1));
    return query select k, s[1] + k * s[2], s[1] + k * s[2] - spread * sqrt(k), s[1] + k * s[2] + spread * sqrt(k) from generate_series(1, steps) k;
end $$;
