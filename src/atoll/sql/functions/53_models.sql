-- What models this node is to have. Adding one and wanting it somewhere are rows; the node's process makes them true.

-- Of several words about a model the one for the smallest place counts.
create or replace function atoll.wanted_models() returns setof atoll.desired_model
language sql stable security definer set search_path = pg_catalog
begin atomic
    select (d).* from (
        select distinct on (w.model) w as d from atoll.desired_model w
         where w.place in ('global', atoll.here(), atoll.here_only())
         order by w.model, case when w.place = atoll.here_only() then 1 when w.place = atoll.here() then 2 else 3 end) chosen
     where (d).version is not null;
end;

-- A place, as people name it: all, a region, or a node by name or number.
create or replace function atoll.place_of(said text) returns text
language plpgsql stable security definer set search_path = pg_catalog as $$
declare
    found integer;
begin
    if said in ('all', 'global') then
        return 'global';
    elsif said = 'here' then
        return atoll.here_only();
    elsif said like 'region=%' or said like 'region:%' then
        return 'region:' || substr(said, 8);
    end if;
    select n.number into found from atoll.node n where (n.name = said or n.number::text = said or 'node:' || n.number = said) and n.revoked_at is null
     order by n.number desc limit 1;
    if found is null then
        perform atoll.refuse('place-unknown', format('there is no place "%s"', said), hint => 'Name a node, or say here, all or region=NAME.');
    end if;
    return 'node:' || found;
end $$;

-- What is added again is the latest again.
create or replace function atoll.add_model(manifest jsonb, version text, signature text, certificate text) returns void
language plpgsql security definer set search_path = pg_catalog as $$
#variable_conflict use_column
declare
    base    constant text := split_part(add_model.manifest->>'name', ':', 1);
    allowed constant integer := 32;
begin
    if add_model.manifest->>'name' like '%:%' and (select count(distinct m.name) from atoll.model m
         where starts_with(m.name, base || ':') and m.name <> add_model.manifest->>'name') >= allowed then
        perform atoll.refuse('adapters-many', format('model "%s" has %s adapters already, as many as it may have', base, allowed),
            hint => 'Remove one: atoll model rm NAME');
    end if;
    insert into atoll.model (name, version, manifest, signature, certificate, added_by)
    values (add_model.manifest->>'name', add_model.version, add_model.manifest, add_model.signature, add_model.certificate, atoll.me())
    on conflict (name, version) do update set added_at = clock_timestamp() where excluded.name like '%:%';
end $$;

create or replace function atoll.want_model(of_model text, of_version text, at_place text, of_variant text default null, keep boolean default false, with_options jsonb default '{}') returns text
language plpgsql security definer set search_path = pg_catalog as $$
declare
    named constant text := atoll.place_of(at_place);
begin
    if of_model like '%:%' then
        perform atoll.refuse('adapter-placed', 'an adapter cannot be placed: it is wherever its model is',
            hint => format('Place the model: atoll model place %s', split_part(of_model, ':', 1)));
    end if;
    if of_version is not null and not exists (select from atoll.model m where m.name = of_model and m.version = of_version) then
        perform atoll.refuse('model-unknown', format('there is no model "%s" in version %s', of_model, of_version), hint => 'See what there is: atoll model list');
    end if;
    insert into atoll.desired_model (model, place, version, variant, is_kept, options) values (of_model, named, of_version, of_variant, keep, with_options)
    on conflict (model, place) do update set version = excluded.version, variant = excluded.variant, is_kept = excluded.is_kept, options = excluded.options;
    return named;
end $$;

-- Takes a version away, or all of a model's, with its adapters. Where it was wanted it is wanted no more.
create or replace function atoll.remove_model(of_model text, of_version text default null) returns integer
language plpgsql security definer set search_path = pg_catalog as $$
declare
    removed integer;
begin
    delete from atoll.model m where m.name = of_model and m.version = coalesce(of_version, m.version);
    get diagnostics removed = row_count;
    if removed = 0 then
        perform atoll.refuse('model-unknown', format('there is no model "%s"%s', of_model, coalesce(' in version ' || of_version, '')), hint => 'See what there is: atoll model list');
    end if;
    delete from atoll.model m where starts_with(m.name, of_model || ':') and not exists (select from atoll.model o where o.name = of_model);
    delete from atoll.desired_model d where d.model = of_model and d.version = coalesce(of_version, d.version);
    return removed;
end $$;
