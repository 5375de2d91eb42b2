-- Receipts: hashes of a table's rows, to be compared between nodes. A row's hash is the md5 of its columns as
-- text, in order of their names; a bucket's is the xor of its rows' hashes, so that order does not matter.

-- The rows of a table, each as its key and its hash: all that are here, or those in some scopes.
drop function if exists atoll.receipt_source(text);
create or replace function atoll.receipt_source(of_table text, scopes text[] default null) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    t    constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    keys text;
    cols text;
begin
    select string_agg(format('m.%I::text', name), ', ' order by name collate "C") filter (where is_key), string_agg(format('m.%I::text', name), ', ' order by name collate "C")
      into keys, cols from atoll.local_column where tbl = of_table;
    if t.problem is not null or cols is null then
        perform atoll.refuse('table-not-shared', format('table %s is not shared here', of_table));
    end if;
    return format('select array[%s]::text as key, md5(array[%s]::text) as hash from %s m', keys, cols, of_table)
        || case when scopes is null then '' else format(' where %s = any (%L::text[])', atoll.row_scope(t, 'm'), scopes) end;
end $$;

drop function if exists atoll.receipt_buckets(text, integer);
create or replace function atoll.receipt_buckets(of_table text, buckets integer default 256, scopes text[] default null)
returns table (bucket integer, row_count bigint, hash text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' as $$
begin
    return query execute format($f$
        select (('x' || left(md5(key), 6))::bit(24)::integer %% %s), count(*), 
               to_hex(bit_xor(('x' || left(hash, 16))::bit(64)::bigint)) || to_hex(bit_xor(('x' || right(hash, 16))::bit(64)::bigint))
          from (%s) r group by 1 order by 1 $f$, buckets, atoll.receipt_source(of_table, scopes));
end $$;

-- Says nothing of rows beyond `most`: who asks names no more buckets than have so many rows.
drop function if exists atoll.receipt_rows(text, integer, integer[], integer);
create or replace function atoll.receipt_rows(of_table text, buckets integer, wanted integer[], most integer default 20000, scopes text[] default null)
returns table (key text, hash text)
language plpgsql stable security definer set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set timezone = 'UTC' as $$
begin
    return query execute format($f$
        select key, hash from (%s) r where (('x' || left(md5(key), 6))::bit(24)::integer %% %s) = any ($1) order by key limit %s $f$,
        atoll.receipt_source(of_table, scopes), buckets, most) using wanted;
end $$;

-- The rows of a table in one line, the same on every node that has converged: all that are here, or those in some
-- scopes, for two nodes that do not have all scopes in common.
drop function if exists atoll.receipt(text);
create or replace function atoll.receipt(of_table text, scopes text[] default null) returns text
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    told text;
begin
    select coalesce(sum(row_count), 0) || ' rows ' || left(md5(coalesce(string_agg(bucket || ':' || hash, ',' order by bucket), '')), 16)
      into told from atoll.receipt_buckets(of_table, 256, scopes);
    return told;
end $$;

-- For each scope that a table's rows may have here, the members that may have those rows too.
create or replace function atoll.circles(of_table text) returns table (scope text, members integer[])
language plpgsql stable set search_path = pg_catalog as $$
declare
    t constant atoll.local_table := (select l from atoll.local_table l where l.name = of_table);
    usual text;
begin
    execute 'select ' || atoll.usual_scope(t) into usual;
    return query
        select s, (select array_agg(p.number order by p.number) from atoll.peers() p where s = any (atoll.scopes_of(p.number)))
          from unnest(case when t.scope_column is null then array[usual] else atoll.scopes_of(atoll.me()) end) s;
end $$;
