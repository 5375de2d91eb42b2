-- Answers that are given again. What is looked up, and for whom, is decided in router/answers; here they are kept and forgotten.

-- So many changes and deletions of rows has this node seen in a table since it counts. After a crash it counts anew, and then
-- what was noted before is taken for changed.
create or replace function atoll.changes_seen(of_table text) returns bigint
language sql stable set search_path = pg_catalog
return (select pg_stat_get_tuples_updated(c.oid) + pg_stat_get_tuples_deleted(c.oid) from pg_class c where c.oid = to_regclass(of_table));

-- Nothing is kept that this node would not itself be given.
create or replace function atoll.keep_answer(with_key text, of_whole text, of_around text, with_question text, with_vector bytea, with_encoder text, of_route text, of_model text,
    of_version text, of_variant text, of_scope text, at double precision, lasting double precision, with_events text, with_tables text[]) returns boolean
language plpgsql set search_path = pg_catalog as $$
begin
    if not atoll.admits(atoll.scope_of(of_scope, 'global')) then
        return false;
    end if;
    insert into atoll.answer (key, whole, around, question, vector, encoder, route, model, version, variant, scope, node, made_at, until, events, read)
    values (with_key, of_whole, of_around, with_question, with_vector, with_encoder, of_route, of_model, of_version, of_variant, of_scope, atoll.me(), at, lasting, with_events,
            (select coalesce(jsonb_object_agg(t, coalesce(atoll.changes_seen(t), 0)), '{}') from unnest(with_tables) t))
    on conflict (key) do update set node = excluded.node, made_at = excluded.made_at, until = excluded.until, events = excluded.events, read = excluded.read;
    return true;
end $$;

-- What has outlived its time, quotes rows of a table that has changed, or is too much. Each node sees to what it has made itself;
-- a day later others do, for one that has left.
create or replace function atoll.tidy_answers(most integer, kept integer) returns integer
language plpgsql set search_path = pg_catalog as $$
declare
    present constant double precision := extract(epoch from clock_timestamp());
    changed text[];
    n       integer;
begin
    select coalesce(array_agg(distinct r.key || ' ' || r.value), '{}') into changed
      from (select distinct e.key, e.value from atoll.answer a, jsonb_each_text(a.read) e where a.node = atoll.me()) r
     where atoll.changes_seen(r.key) is distinct from r.value::bigint;
    with old as (
        select a.key from atoll.answer a
         where a.until < present - case when a.node = atoll.me() then 0 else 86400 end
            or a.node = atoll.me() and exists (select from jsonb_each_text(a.read) e where e.key || ' ' || e.value = any (changed))
            or a.node = atoll.me() and a.made_at <= (select x.made_at from atoll.answer x order by x.made_at desc offset kept limit 1)
         limit most
    )
    delete from atoll.answer a using old where a.key = old.key;
    get diagnostics n = row_count;
    return n;
end $$;

create or replace function atoll.wake_for_answer() returns trigger
language plpgsql security definer set search_path = pg_catalog as $$
begin
    perform pg_notify('atoll_answers', coalesce(new.key, old.key));
    return null;
end $$;

do $$ begin
    if not exists (select from pg_trigger where tgrelid = 'atoll.answer'::regclass and tgname = 'wake') then
        create trigger wake after insert or update or delete on atoll.answer for each row execute function atoll.wake_for_answer();
        alter table atoll.answer enable always trigger wake;
    end if;
end $$;
