-- The rows of one table as changes for one peer. Rows that were written once, at birth, travel as inserts with a
-- stamp each; all others as whole states. Only what the peer may have is among them.

create or replace function atoll.seed_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{fn_seed}}(for_peer integer) returns void
language plpgsql security definer {{output}} as $body$
declare
    atoll_scopes constant text[] := atoll.scopes_of(for_peer);
begin
    insert into atoll.change (origin, seq, tbl, op, at, ats, prev, n, cols, vals, target{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', max(atoll_at), array_agg(atoll_at)::text, 0, count(*),
           array[{{col_names}}], array[{{agg_literals}}], for_peer{{scope_r}}
      from (select r.*, m.atoll_birth as atoll_at, {{chunk}} as atoll_chunk
              from {{table}} r join {{side}} m on {{m_is_r}} where {{untouched}} and {{may_have_r}}) r
     group by atoll_chunk{{by_scope}};
    insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, target{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'S', atoll.now(), count(*),
           array[{{key_names}}, '@state'], array[{{agg_key_literals}}, array_agg(atoll_state::text)::text], for_peer{{and_scope_r}}
      from (select r.*, (row_number() over () - 1) / 500 as atoll_chunk{{scope_of_it}}
              from (select {{m_keys}}, {{fn_read}}(m, r) as atoll_state
                      from {{side}} m left join {{table}} r on {{m_is_r}} where not ({{untouched}})) r
             where {{may_have_state}}) r
     group by atoll_chunk{{by_state_scope}};
end $body$;
$template$ $sql$;

create or replace function atoll.append_seed_template() returns text
language sql immutable as $sql$ select $template$
create or replace function {{fn_seed}}(for_peer integer) returns void
language plpgsql security definer {{output}} as $body$
declare
    atoll_scopes constant text[] := atoll.scopes_of(for_peer);
begin
    insert into atoll.change (origin, seq, tbl, op, at, prev, n, cols, vals, target{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, 'I', atoll.now(), 0, count(*),
           array[{{col_names}}], array[{{agg_literals}}], for_peer{{scope_r}}
      from (select r.*, {{chunk}} as atoll_chunk from {{table}} r where {{may_have_r}}) r
     group by atoll_chunk{{by_scope}};
end $body$;
$template$ $sql$;
