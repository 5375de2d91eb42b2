-- Receipts: hashes of a table's rows, to be compared between nodes. A row's hash is the md5 of its columns as
-- text, in order of their names; a bucket's is the xor of its rows' hashes, so that order does not matter.

create or replace function atoll.receipt_source(of_table text) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    keys text;
    cols text;
begin
    select string_agg(format('%I::text', name), ', ' order by name) filter (where is_key), string_agg(format('%I::text', name), ', ' order by name)
      into keys, cols from atoll.local_column where tbl = of_table;
    if cols is null then
        perform atoll.refuse('table-not-shared', format('table %s is not shared here', of_table));
    end if;
    return format('select array[%s]::text as key, md5(array[%s]::text) as hash from %s', keys, cols, of_table);
end $$;

create or replace function atoll.receipt_buckets(of_table text, buckets integer default 256)
returns table (bucket integer, row_count bigint, hash text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' as $$
begin
    return query execute format($f$
        select (('x' || left(md5(key), 6))::bit(24)::integer %% %s), count(*), 
               to_hex(bit_xor(('x' || left(hash, 16))::bit(64)::bigint)) || to_hex(bit_xor(('x' || right(hash, 16))::bit(64)::bigint))
          from (%s) r group by 1 order by 1 $f$, buckets, atoll.receipt_source(of_table));
end $$;

-- Says nothing of rows beyond `most`: who asks names no more buckets than have so many rows.
create or replace function atoll.receipt_rows(of_table text, buckets integer, wanted integer[], most integer default 20000)
returns table (key text, hash text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' as $$
begin
    return query execute format($f$
        select key, hash from (%s) r where (('x' || left(md5(key), 6))::bit(24)::integer %% %s) = any ($1) order by key limit %s $f$,
        atoll.receipt_source(of_table), buckets, most) using wanted;
end $$;

-- The rows of a table in one line, the same on every node that has converged: all that are here, or those in some
-- scopes, for two nodes that do not have all scopes in common.
drop function if exists atoll.receipt(text);
create or replace function atoll.receipt(of_table text, scopes text[] default null) returns text
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' as $$
declare
    t     constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    usual constant text := case t.scope when 'region' then 'atoll.here()' when 'node' then 'atoll.here_only()' else quote_literal(t.scope) end;
    told  text;
begin
    execute format($f$
        with r as (
            select (('x' || left(md5(key), 6))::bit(24)::integer %% 256) as bucket, hash from (%s m where $1 is null or %s = any ($1)) r
        ), b as (
            select bucket, count(*) as n, to_hex(bit_xor(('x' || left(hash, 16))::bit(64)::bigint)) || to_hex(bit_xor(('x' || right(hash, 16))::bit(64)::bigint)) as hash
              from r group by bucket
        )
        select coalesce(sum(n), 0) || ' rows ' || left(md5(coalesce(string_agg(bucket || ':' || hash, ',' order by bucket), '')), 16) from b $f$,
        atoll.receipt_source(of_table), case when t.scope_column is null then usual else format('atoll.scope_of(m.%I::text, %s)', t.scope_column, usual) end)
       into told using scopes;
    return told;
end $$;
