-- The rows of a shared table as changes: for a file, and for everybody after a restore.
--
-- Rows that were written once, at birth, are inserts with a stamp each; all others are whole states. Which rows have
-- changed since a transaction, whoever wrote them, is told by the age of their entry beside the table. It does not
-- depend on how long the log reaches back.

create or replace function atoll.transfer_template() returns text
language sql immutable as $sql$ select $template$
select 'I'::"char", max(r.atoll_at), array_agg(r.atoll_at)::text, 0::bigint, count(*)::integer,
       array[{{col_names}}], array[{{agg_literals}}], r.atoll_scope
  from (select r.*, m.atoll_birth as atoll_at, {{chunk}} as atoll_chunk, {{row_scope}} as atoll_scope
          from {{table}} r join {{side}} m on {{m_is_r}} where {{untouched}} and age(m.xmin) <= $2) r
 where atoll.may_travel(r.atoll_scope, $1)
 group by r.atoll_scope, r.atoll_chunk
union all
select 'S'::"char", atoll.now(), null, null, count(*)::integer,
       array[{{key_names}}, '@state'], array[{{agg_key_literals}}, array_agg(r.atoll_state::text)::text], r.atoll_scope
  from (select s.*, (row_number() over () - 1) / 500 as atoll_chunk, {{state_scope}} as atoll_scope
          from (select {{m_keys}}, {{fn_read}}(m.*, r.*) as atoll_state
                  from {{side}} m left join {{table}} r on {{m_is_r}} where not ({{untouched}}) and age(m.xmin) <= $2) s) r
 where atoll.may_travel(r.atoll_scope, $1)
 group by r.atoll_scope, r.atoll_chunk
$template$ $sql$;

create or replace function atoll.append_transfer_template() returns text
language sql immutable as $sql$ select $template$
select 'I'::"char", atoll.now(), null::text, 0::bigint, count(*)::integer, array[{{col_names}}], array[{{agg_literals}}], r.atoll_scope
  from (select r.*, {{chunk}} as atoll_chunk, {{row_scope}} as atoll_scope from {{table}} r where age(r.xmin) <= $2) r
 where atoll.may_travel(r.atoll_scope, $1)
 group by r.atoll_scope, r.atoll_chunk
$template$ $sql$;

-- What is local stays; the rest goes to whoever is in one of these scopes, or to everybody where none are named.
create or replace function atoll.may_travel(scope text, scopes text[]) returns boolean
language sql immutable parallel safe
return scope <> 'local' and (scopes is null or scope = any (scopes));

-- Where a row belongs, as an expression over its value.
create or replace function atoll.scope_expression(t atoll.local_table, said text) returns text
language sql stable
return (
    with part as (
        select to_jsonb(t)->>'scope_column' as col,
               case coalesce(to_jsonb(t)->>'scope', 'global') when 'global' then '''global''' when 'local' then '''local'''
                    when 'region' then 'atoll.here()' else 'atoll.here_only()' end as usual
    )
    select case when col is null then usual else format('atoll.scope_of(%s, %s)', format(said, col), usual) end from part);

create or replace function atoll.rows_as_changes(of_table text, scopes text[], age_max integer)
returns table (op "char", at bigint, ats text, prev bigint, n integer, cols text[], vals text[], scope text)
language plpgsql set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set xmlbinary = 'base64' as $$
declare
    t    atoll.local_table;
    vars jsonb;
begin
    select * into t from atoll.local_table l where l.name = of_table and l.problem is null;
    if t.name is null then
        return;
    end if;
    vars := atoll.variables(of_table) || jsonb_build_object(
        'row_scope', atoll.scope_expression(t, 'r.%1$I::text'),
        'state_scope', atoll.scope_expression(t, 's.atoll_state->''v''->>%1$L'));
    return query execute atoll.render(case t.kind when 'append' then atoll.append_transfer_template() else atoll.transfer_template() end, vars)
        using scopes, age_max;
end $$;

-- The shared tables in the order in which their rows have to arrive: what tells of others first.
create or replace function atoll.tables_in_order() returns setof text
language sql stable set search_path = pg_catalog
begin atomic
    select l.name from atoll.local_table l where l.problem is null
     order by l.name not like 'atoll.%', l.name <> 'atoll.node', l.name <> 'atoll.shared_table', l.made_at;
end;

-- Everything that is here, for everybody, under this node's number: after a restore nobody knows who lacks what.
create or replace procedure atoll.tell_everything()
language plpgsql as $$
declare
    t text;
begin
    for t in select * from atoll.tables_in_order() where exists (select from atoll.peers()) loop
        insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, scope)
        select atoll.me(), nextval('atoll.change_seq'), t, r.op, r.at, r.ats, r.prev, r.n, r.cols, r.vals, r.scope
          from atoll.rows_as_changes(t, null, 2147483647) r;
        commit;
    end loop;
    update atoll.former set told_at = now() where told_at is null;
    commit;
end $$;

-- Which rows of a change say something new. Files repeat what the other side has, and a row that is merged counts as
-- changed here: without this, two nodes would send each other everything for ever.
create or replace function atoll.news_template() returns text
language sql immutable as $sql$ select $template$
select array_agg(r.atoll_i)
  from rows from ({{key_arrays}}) with ordinality r ({{keys}}, atoll_said, atoll_i)
  left join {{side}} m on {{m_is_r}} left join {{table}} t on {{t_is_r}}
 where m.{{first_key}} is not distinct from null
    or case $3 when 'I' then m.atoll_birth is distinct from r.atoll_said::bigint
               else atoll.join_state({{policies}}, {{fn_read}}(m.*, t.*), r.atoll_said::jsonb)
                    <> atoll.join_state({{policies}}, {{fn_read}}(m.*, t.*), {{fn_read}}(m.*, t.*)) end
$template$ $sql$;

create or replace function atoll.news_of(c atoll.change) returns atoll.change
language plpgsql set search_path = pg_catalog set datestyle = 'ISO, YMD' set intervalstyle = 'postgres'
set bytea_output = 'hex' set extra_float_digits = 1 set lc_monetary = 'C' set xmlbinary = 'base64' as $$
declare
    t    atoll.local_table;
    keys integer;
    news bigint[];
    vars jsonb;
begin
    select * into t from atoll.local_table l where l.name = c.tbl and l.problem is null and l.kind = 'merge';
    if t.name is null or c.op not in ('I', 'S') then
        return c;
    end if;
    select count(*) into keys from atoll.local_column l where l.tbl = c.tbl and l.is_key;
    vars := atoll.variables(c.tbl) || jsonb_build_object('key_arrays', (
        select string_agg(format('unnest(($1)[%s]::%s[])', l.ordinal, l.wire), ', ' order by l.ordinal) from atoll.local_column l where l.tbl = c.tbl and l.is_key)
        || ', unnest(($2)::text[])');
    execute atoll.render(atoll.news_template(), vars) into news
      using c.vals, case c.op when 'S' then c.vals[keys + 1] else coalesce(c.ats, array_fill(c.at, array[c.n])::text) end, c.op;
    if cardinality(news) = c.n then
        return c;
    end if;
    select coalesce(array_agg(atoll.picked(v, news) order by i), '{}') into c.vals from unnest(c.vals) with ordinality u (v, i);
    c.ats := atoll.picked(c.ats, news);
    c.n := coalesce(cardinality(news), 0);
    return c;
end $$;

-- Some elements of an array literal.
create or replace function atoll.picked(literal text, places bigint[]) returns text
language sql immutable
return (select array_agg(e.v order by e.i)::text from unnest(literal::text[]) with ordinality e (v, i) where e.i = any (places));

-- One change of a file, as if it had come over a link. Says how many rows were new, and whether they were merged;
-- what could not be is parked. With `pass_on`, those who have links to this node get it too, under its own number.
create or replace function atoll.take_change(c jsonb, pass_on boolean, out fresh integer, out merged boolean)
language plpgsql security definer set search_path = pg_catalog set session_replication_role = replica as $$
declare
    r atoll.change := atoll.news_of(jsonb_populate_record(null::atoll.change, c));
begin
    fresh := r.n;
    merged := true;
    if r.n = 0 then
        return;
    end if;
    r.version := 1;
    r.target := atoll.me();
    if current_setting('session_replication_role') = 'replica' then
        insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, target, scope)
        values (r.origin, r.seq, r.tbl, r.op, r.at, r.ats, r.prev, r.n, r.cols, r.vals, r.target, r.scope);
    else    -- who may not switch roles merges with capture kept quiet
        perform set_config('atoll.quiet', 'on', true);
        perform atoll.merge(r);
        perform set_config('atoll.quiet', '', true);
    end if;
    if pass_on then
        perform atoll.pass_on(r);
    end if;
    merged := not exists (select from atoll.parked p where p.origin = r.origin and p.seq = r.seq);
end $$;

create or replace function atoll.pass_on(r atoll.change) returns void
language plpgsql security definer set search_path = pg_catalog set session_replication_role = origin as $$
begin
    insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, scope)
    values (atoll.me(), nextval('atoll.change_seq'), r.tbl, r.op, r.at, r.ats, r.prev, r.n, r.cols, r.vals, r.scope);
end $$;

-- What a member may have.
create or replace function atoll.scopes_for(node integer) returns text[]
language sql stable set search_path = pg_catalog
return array['global', 'node:' || node]
    || array_remove(array['region:' || coalesce((select n.region from atoll.node n where n.number = node),
                                                (select p.region from atoll.peers() p where p.number = node))], null);
