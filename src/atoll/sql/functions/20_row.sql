-- One row at a time: the careful way, which both capture and merge take when the fast way does not apply.
--
--   read    the state of a row, from the sidecar and the table
--   write   a state, into the sidecar and the table; unique conflicts are settled here
--   revive  rows that a unique conflict had set aside, when its key may have become free
--   join    a change's effect on one row: lock, read, note conflicts, join, write
--   absorb  a local write's effect on one row, and the change that tells the others
--
-- Lock order, here and in the fast ways: the table's rows in key order, then their sidecar rows.

create or replace function atoll.row_template() returns text
language sql immutable as $sql$ select $template$

create or replace function {{fn_read}}(s {{side}}, t {{table}}) returns jsonb
language sql stable {{output}} as $body$
    select jsonb_strip_nulls(jsonb_build_object('b', s.atoll_birth, 'd', s.atoll_death, 'e', s.atoll_epoch))
        || jsonb_build_object('t', jsonb_strip_nulls(stamps), 'v', vals, 'x', (
               select coalesce(jsonb_object_agg(p.key, coalesce(s.atoll_state->p.key,
                          atoll.explicit(p.value, (stamps->>p.key)::bigint, vals->>p.key))), '{}')
                 from jsonb_each({{policies}}) p
                where p.value->>'p' in ('counter', 'first', 'set', 'document') and stamps->>p.key is not null))
      from (select jsonb_object({{stamp_names}}, {{stamps}}) as stamps,
                   case when t.{{first_key}} is not distinct from null then coalesce(s.atoll_kept, '{}')
                        else jsonb_object({{stamp_names}}, {{texts}}) end as vals) r
$body$;

create or replace function {{fn_write}}(s {{side}}, t {{table}}, atoll_row jsonb, and_revive boolean) returns void
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    n        {{table}};
    q        {{table}};
    qs       {{side}};
    atoll_vals     jsonb := atoll_row->'v';
    in_table boolean := t.{{first_key}} is distinct from null;
    atoll_alive    boolean := atoll.is_alive(atoll_row);
    atoll_placed   boolean := true;
    atoll_gone     boolean := false;    -- out of this node's scopes: only the stamps stay,
    atoll_left     jsonb;               -- and what was written later than the move: it may be on its way back
    rank     bigint;
    q_rank   bigint;
    policies constant jsonb := {{policies}};
begin
    select atoll_vals || coalesce(jsonb_object_agg(p.key, atoll.shown(p.value, atoll_row->'x'->p.key)), '{}')
      into atoll_vals from jsonb_each(policies) p
     where p.value->>'p' in ('counter', 'first', 'set', 'document') and atoll_row->'t' ? p.key;
    if {{is_by_row}} then
        atoll_gone := not atoll.admits({{scope_of_vals}});
        if atoll_gone then
            atoll_left := atoll.written_after(policies, atoll_row, {{scope_name}});
        end if;
        -- Of a row that came back into scope, a value may still be on its way.
        atoll_placed := not atoll_gone and not exists (select from jsonb_object_keys(atoll_row->'t') k where not atoll_vals ? k);
    end if;
    if atoll_alive and atoll_placed then
        {{assign_n}}
        if {{has_unique}} then
            rank := {{state_rank}};
            for q in select m.* from {{table}} m where ({{unique_match}}) and not ({{n_is_m}}) loop
                select m.* into qs from {{side}} m where {{m_is_q}} for update;
                -- Without an entry it was written by the very statement that is being captured.
                q_rank := coalesce({{side_rank}}, 9223372036854775807);
                if rank < q_rank or (rank = q_rank and row({{n_keys}})::text collate "C" < row({{q_keys}})::text collate "C") then
                    atoll_placed := false;
                    perform atoll.note_unique({{name}}, {{key_of_n}}, {{key_of_q}}, rank, q_rank, {{row_of_n}});
                end if;
            end loop;
            for q in select m.* from {{table}} m where atoll_placed and ({{unique_match}}) and not ({{n_is_m}}) loop
                select m.* into qs from {{side}} m where {{m_is_q}};
                perform atoll.note_unique({{name}}, {{key_of_q}}, {{key_of_n}}, {{side_rank}}, rank, {{row_of_q}});
                delete from {{table}} m where {{m_is_q}};
                update {{side}} m set atoll_aside = true, atoll_kept = {{kept_of_q}} where {{m_is_q}};
            end loop;
        end if;
    end if;
    if atoll_alive and atoll_placed then
        if in_table then
            if {{has_values}} and record_image_ne({{n_values_row}}, {{t_values_row}}) then
                update {{table}} m set {{set_n}} where {{m_is_n}};
            end if;
        else
            insert into {{table}} ({{cols}}) overriding system value values ({{n_cols}});
        end if;
    elsif in_table then
        delete from {{table}} m where {{m_is_t}};
    end if;
    update {{side}} m set
        atoll_birth = (atoll_row->>'b')::bigint, atoll_death = (atoll_row->>'d')::bigint, atoll_epoch = (atoll_row->>'e')::bigint,
        {{set_stamps}}
        atoll_state = nullif(case when atoll_gone then atoll_left->'x' else atoll_row->'x' end, '{}'),
        atoll_kept = case when atoll_gone then atoll_left->'v' when atoll_alive and atoll_placed then null else atoll_vals end,
        atoll_aside = case when atoll_alive and not (atoll_placed or atoll_gone) then true end
     where {{m_is_s}};
    if {{has_unique}} and and_revive then
        perform {{fn_revive}}();
    end if;
end $body$;

create or replace function {{fn_revive}}() returns void
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    s   {{side}};
    was text := coalesce(current_setting('atoll.quiet', true), '');
begin
    perform set_config('atoll.quiet', 'on', true);
    for s in select m.* from {{side}} m where m.atoll_aside order by {{side_rank_m}} desc, row({{m_keys}})::text collate "C" desc
    loop
        perform {{fn_write}}(s, null::{{table}}, {{fn_read}}(s, null::{{table}}), false);
    end loop;
    perform set_config('atoll.quiet', was, true);
end $body$;

create or replace function {{fn_join}}(atoll_key jsonb, delta jsonb) returns void
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    t     {{table}};
    s     {{side}};
    state jsonb;
    atoll_joined jsonb;
begin
    select m.* into t from {{table}} m where {{m_is_key}} for update;
    insert into {{side}} ({{keys}}) values ({{key_values}}) on conflict do nothing;
    select m.* into s from {{side}} m where {{m_is_key}} for update;
    select m.* into t from {{table}} m where {{m_is_key}} for update;
    state := {{fn_read}}(s, t);
    perform atoll.note_conflicts({{name}}, atoll_key, {{policies}}, state, delta);
    atoll_joined := atoll.join_state({{policies}}, state, delta);
    perform {{fn_write}}(s, t, atoll_joined, true);
    {{settle_join}}
end $body$;

-- Tells the nodes in a scope all that is known of a row, or, for an X, that it is theirs no more.
create or replace function {{fn_tell}}(atoll_key jsonb, atoll_op "char", state jsonb, in_scope text) returns void
language plpgsql set search_path = pg_catalog as $body$
declare
    was text := coalesce(current_setting('atoll.tells', true), '');
begin
    if atoll_op = 'X' then
        state := state || jsonb_strip_nulls(jsonb_build_object('lacks', (select jsonb_agg(k) from jsonb_object_keys(state->'t') k where not state->'v' ? k)))
                       || jsonb_build_object('v', jsonb_build_object({{scope_name}}::text, state->'v'->{{scope_name}}::text), 'x', '{}'::jsonb,
                                            'seen', (select coalesce(jsonb_object_agg(c.key, atoll.stamps_in(c.value)), '{}') from jsonb_each(state->'x') c));
    end if;
    perform set_config('atoll.tells', 'on', true);
    insert into atoll.change (origin, seq, tbl, op, at, n, cols, vals, scope)
    select atoll.me(), nextval('atoll.change_seq'), {{name}}, atoll_op, atoll.now(), 1, {{key_name_array}} || '@state'::text,
           (select array_agg(array[atoll_key->>k]::text order by i) from unnest({{key_name_array}}) with ordinality u (k, i)) || array[state::text]::text, in_scope;
    perform set_config('atoll.tells', was, true);
end $body$;

-- A row's scope is settled by its latest move. Whoever made that move tells those who believed another one, and
-- whoever has something that a mover had not seen passes it on to where the row is now. What was written before the
-- latest move, and comes to its mover after it, is told to all where the row is: those whom the row had left and came
-- back to may have dropped it, as it was not later than the move by which it left.
create or replace function {{fn_settle}}(atoll_key jsonb, state jsonb, delta jsonb, atoll_joined jsonb) returns void
language plpgsql set search_path = pg_catalog as $body$
declare
    mine     bigint := state->'t'->>{{scope_name}};
    theirs   bigint := delta->'t'->>{{scope_name}};
    was      text := atoll.scope_of(state->'v'->>{{scope_name}}, {{usual_scope}});
    told     text := case when theirs is null then was else atoll.scope_of(delta->'v'->>{{scope_name}}, {{usual_scope}}) end;
    is_mover boolean := atoll.is_own(mine);
    is_left  boolean := delta ? 'seen';
    is_fresh boolean;
begin
    if mine is null then
        return;
    elsif theirs > mine then
        -- Also where it came back by moves not seen here, but not for a write that moved nothing and names some columns only.
        if (was <> told or not delta ? 'p') and atoll.has_news({{policies}}, state, delta) then
            perform {{fn_tell}}(atoll_key, 'S', atoll_joined, told);
        end if;
        if was <> told and is_mover then   -- the mover may not have known of that move
            perform {{fn_tell}}(atoll_key, 'X', atoll_joined, was);
        end if;
        return;
    elsif was <> told and is_mover then
        perform {{fn_tell}}(atoll_key, 'X', atoll_joined, told);
    end if;
    -- Those who were told that it left have dropped it, and what was written here may have told them its scope only.
    if is_left then
        if was <> told and is_mover and atoll.admits(was) then
            perform {{fn_tell}}(atoll_key, 'S', atoll_joined, was);
        end if;
    elsif was <> told or is_mover and exists (select from jsonb_each_text(delta->'t') c where c.value::bigint < mine) then
        state := atoll.join_state({{policies}}, state, '{}');
        is_fresh := (atoll_joined->'v', atoll_joined->'x', atoll_joined->'d') is distinct from (state->'v', state->'x', state->'d');
        if is_fresh or theirs = mine and is_mover and atoll.has_news({{policies}}, state, delta) then
            perform {{fn_tell}}(atoll_key, 'S', atoll_joined, was);
        end if;
    end if;
end $body$;

create or replace function {{fn_absorb}}(o {{table}}, n {{table}}) returns void
language plpgsql {{output}} as $body$
#variable_conflict use_column
declare
    s        {{side}};
    was      text := coalesce(current_setting('atoll.quiet', true), '');
    inserts  boolean := o.{{first_key}} is not distinct from null;
    deletes  boolean := n.{{first_key}} is not distinct from null;
    k        {{table}} := case when n.{{first_key}} is distinct from null then n else o end;
    was_n    {{table}} := n;
    state    jsonb;
    delta    jsonb;
    stamp    bigint;
    olds     jsonb;
    news     jsonb;
    wire     jsonb;
    changed  text[];
    atoll_joined jsonb;
    atoll_scope  text;
    atoll_was    text;
    policies constant jsonb := {{policies}};
begin
    {{make_canonical}}
    insert into {{side}} ({{keys}}) values ({{k_keys}}) on conflict do nothing;
    select m.* into s from {{side}} m where {{m_is_k}} for update;
    state := {{fn_read}}(s, o);
    inserts := inserts or not (deletes or atoll.is_alive(state));
    stamp := atoll.stamp_after(greatest(atoll.latest(state), (state->>'d')::bigint));
    -- What a policy keeps is compared with what it shows, not with the statement's old row: within one statement
    -- a trigger of the application may have written the row again, and that has been absorbed already.
    olds := jsonb_object({{stamp_names}}, {{o_texts}})
         || (select coalesce(jsonb_object_agg(p.key, atoll.shown(p.value, state->'x'->p.key)), '{}')
               from jsonb_each(policies) p where p.value->>'p' in ('counter', 'first', 'set', 'document'));
    news := jsonb_object({{stamp_names}}, {{n_texts}});
    if deletes then
        delta := jsonb_build_object('d', stamp);
        changed := '{}';
    else
        select coalesce(array_agg(c.name order by c.ordinal), '{}') into changed from atoll.local_column c
         where c.tbl = {{name}} and not c.is_key and (inserts or olds->c.name is distinct from news->c.name);
        if not inserts and changed = '{}' then
            if n is distinct from was_n then
                perform set_config('atoll.quiet', 'on', true);
                perform {{fn_write}}(s, was_n, state, false);
                perform set_config('atoll.quiet', was, true);
            end if;
            return;
        end if;
        delta := jsonb_build_object(
            't', (select coalesce(jsonb_object_agg(c.name, stamp), '{}') from atoll.local_column c
                   where c.tbl = {{name}} and (c.name = any (changed) or c.together in
                         (select g.together from atoll.local_column g where g.tbl = c.tbl and g.name = any (changed)))),
            'v', news,
            'x', (select coalesce(jsonb_object_agg(p.key, case when inserts then atoll.explicit(p.value, stamp, news->>p.key)
                                  else atoll.written(p.value, stamp, olds->>p.key, news->>p.key, state->'x'->p.key) end), '{}')
                    from jsonb_each(policies) p
                   where p.key = any (changed) and p.value->>'p' in ('counter', 'first', 'set', 'document')));
        if inserts then
            delta := delta || jsonb_build_object('b', stamp)
                  || jsonb_strip_nulls(jsonb_build_object('e', case when atoll.is_alive(state) then state->'e'
                                                                    else coalesce(state->'d', state->'e') end));
        else
            delta := delta || jsonb_strip_nulls(jsonb_build_object('e', state->'e'));
        end if;
    end if;
    atoll_scope := case when deletes then {{scope_of_olds}} else {{scope_of_news}} end;
    atoll_joined := atoll.join_state(policies, state, delta);
    if {{is_by_row}} then
        perform atoll.check_scope(atoll_scope);
        atoll_was := case when inserts and state->'t' = '{}' then atoll_scope else atoll.scope_of(state->'v'->>{{scope_name}}, {{usual_scope}}) end;
    end if;
    perform set_config('atoll.quiet', 'on', true);
    perform {{fn_write}}(s, was_n, atoll_joined, true);
    perform set_config('atoll.quiet', was, true);
    if atoll_was <> atoll_scope then
        perform {{fn_tell}}(jsonb_object({{key_name_array}}, {{k_key_texts}}), 'S', atoll_joined, atoll_scope);
        perform {{fn_tell}}(jsonb_object({{key_name_array}}, {{k_key_texts}}), 'X', atoll_joined, atoll_was);
        return;
    end if;

    changed := coalesce((select array_agg(c.name order by c.ordinal) from atoll.local_column c
                          where c.tbl = {{name}} and delta->'t' ? c.name), '{}');
    wire := jsonb_object({{key_name_array}}, {{k_key_texts}}) || news
         || case when inserts or deletes then '{}' else delta->'x' end;
    insert into atoll.change (origin, seq, tbl, op, at, prev, prevs, epochs, n, cols, vals{{and_scope}})
    select atoll.me(), nextval('atoll.change_seq'), {{name}},
           case when deletes then 'D' when inserts then 'I' else 'U' end::"char", stamp,
           case when inserts or deletes then coalesce(atoll.latest(state), 0) end,
           case when not (inserts or deletes) then
               (select array_agg(array[coalesce(state->'t'->>c, '0')]::text order by i)
                  from unnest(changed) with ordinality u(c, i)) end,
           case when delta ? 'e' then array[delta->>'e']::text end, 1,
           {{key_name_array}} || changed,
           (select array_agg(array[wire->>c]::text order by i)
              from unnest({{key_name_array}} || changed) with ordinality u(c, i)){{and_atoll_scope}};
end $body$;

$template$ $sql$;
