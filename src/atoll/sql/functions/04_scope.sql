-- Scopes: where rows may go.
--
--   global      every node            region:R    the nodes of region R
--   node:N      node N alone          local       the node where it was written, and not even the log leaves it
--
-- A row's scope is its table's, or what its scope column says. A plain word in that column is the name of a region.

-- The scopes of this node. sql.install replaces both with the constant.
create or replace function atoll.here() returns text
language sql immutable parallel safe
return 'region:local';

create or replace function atoll.here_only() returns text
language sql immutable parallel safe
return 'node:0';

create or replace function atoll.scope_of(said text, usual text) returns text
language sql immutable parallel safe
return case
    when said is null or said = '' then usual
    when said in ('global', 'local') or said like 'region:%' or said like 'node:%' then said
    else 'region:' || said
end;

-- May this node keep rows of a scope?
create or replace function atoll.admits(scope text) returns boolean
language sql immutable parallel safe
return scope in ('global', 'local', atoll.here(), atoll.here_only());

-- A row whose scope nobody is in would be lost.
create or replace function atoll.check_scope(scope text) returns void
language plpgsql stable set search_path = pg_catalog as $$
begin
    if scope in ('global', 'local', atoll.here(), atoll.here_only()) then
        return;
    elsif scope like 'node:%' then
        if not exists (select from atoll.peers() p where scope = 'node:' || p.number) then
            perform atoll.refuse('scope-unknown', format('cannot move a row to scope "%s": there is no such node', scope), hint => 'See who there is: select number, name from atoll.node', state => 'AT003');
        end if;
    elsif not exists (select from atoll.peers() p where scope = 'region:' || p.region) then
        perform atoll.refuse('scope-unknown', format('cannot move a row to scope "%s": no node is in that region', scope),
            'The row would leave this node and arrive nowhere.', 'See who there is: select name, region from atoll.node', 'AT003');
    end if;
end $$;

-- The stamps of what a policy keeps; whose write each was is in them.
create or replace function atoll.stamps_in(kept jsonb) returns jsonb
language sql immutable parallel safe
return case jsonb_typeof(kept)
    when 'array' then jsonb_build_array(kept->0)
    when 'object' then (select coalesce(jsonb_agg(e.value->0), '[]') from jsonb_each(kept) e)
    else '[]'
end;

-- Has who told this no value of a column? Of a row that left, that is said by name.
create or replace function atoll.is_lacking(delta jsonb, col text) returns boolean
language sql immutable parallel safe
return case when delta ? 'seen' then coalesce(delta->'lacks' ? col, false) else not delta->'v' ? col end;

-- Is something here that whoever told of a row had not seen, or has no value of any more? Who wrote it does not matter: the
-- writer may be gone, or have no link to where the row is now. What was folded into a greatest, least or merged value
-- cannot be told apart, so that counts as news.
drop function if exists atoll.has_own_news(jsonb, jsonb, jsonb);
drop function if exists atoll.has_news(jsonb, jsonb, jsonb, bigint);
create or replace function atoll.has_news(policies jsonb, state jsonb, delta jsonb) returns boolean
language sql stable
return exists (select from jsonb_each_text(state->'t') c
                where state->'v' ? c.key
                  and case policies->c.key->>'p'
                          when 'max' then true when 'min' then true when 'function' then true
                          else policies->c.key is null
                               and c.value::bigint > coalesce(case when not atoll.is_lacking(delta, c.key) then (delta->'t'->>c.key)::bigint end, 0) end)
    or exists (select from jsonb_each(state->'x') c, jsonb_array_elements_text(atoll.stamps_in(c.value)) e (stamp)
                where not coalesce(delta->'seen'->c.key, atoll.stamps_in(delta->'x'->c.key)) @> to_jsonb(e.stamp::bigint))
    or coalesce((state->>'d')::bigint > coalesce((delta->>'d')::bigint, 0), false);

-- Was a stamp made here, under this number or one that this node had before?
create or replace function atoll.is_own(stamp bigint) returns boolean
language sql stable set search_path = pg_catalog
return atoll.stamp_node(stamp) = atoll.me() or exists (select from atoll.former f where f.number = atoll.stamp_node(stamp));

-- Of a state, its scope and what was written later than that. Of a counter, this node's part stays whole: what is added
-- to it next is added to what it was.
drop function if exists atoll.written_after(jsonb, text);
create or replace function atoll.written_after(policies jsonb, state jsonb, scope_name text) returns jsonb
language sql stable parallel safe
return (
    with moved as (select (state->'t'->>scope_name)::bigint as at)
    select jsonb_build_object(
        'v', (select coalesce(jsonb_object_agg(key, value), '{}') from jsonb_each(state->'v')
               where key = scope_name or (state->'t'->>key)::bigint > moved.at),
        'x', (select coalesce(jsonb_object_agg(c.key, case when jsonb_typeof(c.value) = 'array' then c.value else
                         (select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(c.value) e
                           where (e.value->>0)::bigint > moved.at or policies->c.key->>'p' = 'counter' and e.key = atoll.me()::text) end), '{}')
                from jsonb_each(coalesce(state->'x', '{}')) c
               where jsonb_typeof(c.value) = 'object' or jsonb_typeof(c.value) = 'array' and (c.value->>0)::bigint > moved.at))
      from moved);
