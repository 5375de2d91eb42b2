-- The usual way to keep counts: a trigger that adds straight to the row of each window.
create table counted (bucket timestamptz, machine int, n bigint, total float8, primary key (bucket, machine));
create function count_it() returns trigger language plpgsql as $$
begin
    insert into counted
    select date_bin('1 min', taken_at, '2000-01-01'), machine, count(*), sum(temp) from new_rows group by 1, 2 order by 1, 2
    on conflict (bucket, machine) do update set n = counted.n + excluded.n, total = counted.total + excluded.total;
    return null;
end $$;
create trigger count_it after insert on row_lock referencing new table as new_rows for each statement execute function count_it();
