-- Making keys and saying what they may not. For the atoll's owner; what a limit means is decided in the node's process,
-- which takes no row at its word (router/policy/key.py).

create or replace function atoll.add_key(called text, hash text, told jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    most constant integer := 10000;
begin
    if coalesce(called, '') !~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$' then
        perform atoll.refuse('key-malformed', format('cannot name a key %s', coalesce(quote_literal(called), 'null')), hint => 'A name has up to 63 letters, digits, dots, hyphens and underscores.');
    elsif exists (select from atoll.api_key k where k.name = called) then
        perform atoll.refuse('key-exists', format('there is a key "%s" already', called), hint => 'Choose another name; atoll key set changes what one may.');
    elsif (select count(*) from atoll.api_key k where k.revoked_at is null) >= most then
        perform atoll.refuse('keys-many', format('there are %s keys already, as many as there may be', most), hint => 'Revoke one: atoll key rm NAME');
    end if;
    insert into atoll.api_key (name, sha256) values (called, hash);
    perform atoll.set_key(called, told);
end $$;

-- `told` has what is to change: null takes a limit away.
create or replace function atoll.set_key(called text, told jsonb) returns void
language plpgsql set search_path = pg_catalog as $$
declare
    fields constant text[] := array['may_read', 'rate', 'token_rate', 'budget', 'scope', 'tables'];
    bad    text;
begin
    if exists (select from jsonb_object_keys(told) k where k <> all (fields)) then
        perform atoll.refuse('key-malformed', format('a key has no field "%s"', (select min(k) from jsonb_object_keys(told) k where k <> all (fields))));
    end if;
    select f into bad from unnest(array['rate', 'token_rate']) f where told ->> f !~ '^[1-9][0-9]{0,8}/(s|min|h|d)$' limit 1;
    if bad is not null then
        perform atoll.refuse('key-malformed', format('"%s" is no rate', told ->> bad), hint => 'A rate is a number for each s, min, h or d: 60/min');
    elsif told ->> 'scope' !~ '^(local|global|node:[0-9]{1,9}|region:[A-Za-z0-9_.-]{1,64})$' then
        perform atoll.refuse('key-malformed', format('"%s" is no scope', told ->> 'scope'), hint => 'A scope is local, global, node:NUMBER or region:NAME.');
    elsif told ->> 'budget' is not null and not exists (select from atoll.budget b where b.name = told ->> 'budget') then
        perform atoll.refuse('budget-unknown', format('there is no budget "%s"', told ->> 'budget'), hint => 'Set it first: atoll budget set NAME AMOUNT');
    elsif jsonb_typeof(told -> 'tables') = 'array' and jsonb_array_length(told -> 'tables') not between 1 and 32 then
        perform atoll.refuse('key-malformed', 'a key names 1 to 32 tables');
    end if;
    update atoll.api_key k set
        may_read = case when told ? 'may_read' then (told ->> 'may_read')::boolean else k.may_read end,
        rate = case when told ? 'rate' then told ->> 'rate' else k.rate end,
        token_rate = case when told ? 'token_rate' then told ->> 'token_rate' else k.token_rate end,
        budget = case when told ? 'budget' then told ->> 'budget' else k.budget end,
        scope = case when told ? 'scope' then told ->> 'scope' else k.scope end,
        tables = case when not told ? 'tables' then k.tables
                      when jsonb_typeof(told -> 'tables') = 'array' then array(select jsonb_array_elements_text(told -> 'tables')) end
     where k.name = called and k.revoked_at is null;
    if not found then
        perform atoll.refuse('key-unknown', format('there is no key "%s"', called), hint => 'See: atoll key list');
    end if;
end $$;
