-- Saying where rows may go, and deciding by hand who links to whom.

-- The rule of a table in words. `usual` is the scope of a row that says nothing itself.
create or replace function atoll.scope_rule(tbl text) returns table (name text, scope text, scope_column text, usual text, words text)
language plpgsql stable set search_path = pg_catalog as $$
#variable_conflict use_column
begin
    return query select s.name, s.scope, s.scope_column,
           case s.scope when 'region' then atoll.here() when 'node' then atoll.here_only() else s.scope end,
           format('table %s: ', s.name)
           || case when s.scope_column is not null then format('each row goes where its column "%s" says; where that says nothing: ', s.scope_column) else '' end
           || case s.scope when 'global' then 'to every node' when 'region' then 'to the nodes of the region where it was written'
                           when 'node' then 'nowhere: it stays on the node where it was written, and so do its changes'
                           else 'nowhere: it stays where it was written' end
      from atoll.shared_table s where s.name = any (array[tbl, 'public.' || tbl]) order by s.name = tbl desc limit 1;
    if not found then
        perform atoll.refuse('table-not-shared', format('table %s is not shared', tbl), hint => 'See what is: atoll tables');
    end if;
end $$;

-- The scope of a row; of one that has left this node too, as far as is known.
create or replace function atoll.scope_of_row(tbl text, key text[]) returns text
language plpgsql stable set search_path = pg_catalog as $$
declare
    rule  record;
    t     atoll.local_table;
    wants text;
    found text;
begin
    select * into rule from atoll.scope_rule(tbl);
    select * into t from atoll.local_table l where l.name = rule.name;
    if cardinality(key) <> (select count(*) from atoll.local_column c where c.tbl = t.name and c.is_key) then
        perform atoll.refuse('key-parts', format('the key of table %s has %s parts', t.name, (select count(*) from atoll.local_column c where c.tbl = t.name and c.is_key)),
            hint => 'Give one for each column of the primary key, in order.');
    end if;
    select string_agg(format('%I::text = %L', c.name, key[c.ordinal]), ' and ') into wants from atoll.local_column c where c.tbl = t.name and c.is_key;
    execute format('select atoll.scope_of(%s, %L) from %s where %s', coalesce(quote_ident(rule.scope_column) || '::text', 'null'), rule.usual, t.name, wants) into found;
    if found is null and rule.scope_column is not null and t.kind = 'merge' then
        execute format('select atoll.scope_of(atoll_kept->>%L, %L) from atoll_side.%I where %s and atoll_death is null', rule.scope_column, rule.usual, t.side, wants) into found;
    end if;
    if found is null then
        perform atoll.refuse('row-unknown', format('table %s has no such row here', t.name), 'It may be on nodes whose scopes this one is not in.');
    end if;
    return found;
end $$;

create or replace function atoll.tie(one text, other text, wanted text, reason text default '') returns void
language plpgsql security definer set search_path = pg_catalog as $$
declare
    numbers integer[];
begin
    select array_agg(n.number order by n.number) into numbers from atoll.node n
     where n.revoked_at is null and (n.name in (one, other) or n.number::text in (one, other));
    if coalesce(cardinality(numbers), 0) <> 2 then
        perform atoll.refuse('node-unknown', format('"%s" and "%s" are not two nodes of this atoll', one, other), hint => 'See who there is: atoll nodes');
    end if;
    if wanted = 'auto' then
        delete from atoll.tie t where t.a = numbers[1] and t.b = numbers[2];
    else
        insert into atoll.tie (a, b, kind, why) values (numbers[1], numbers[2], wanted, coalesce(reason, ''))
        on conflict (a, b) do update set kind = excluded.kind, why = excluded.why;
    end if;
end $$;
