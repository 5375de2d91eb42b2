-- How SQL says no: SQLSTATE AT001 for a wrong request, AT002 for data that has to be repaired, AT003 for a
-- rule's no. The slug travels as the constraint name, as drivers show it, and docs/errors.md explains it.

create or replace function atoll.refuse(slug text, message text, detail text default null, hint text default null,
                                        state text default 'AT001') returns void
language plpgsql set search_path = pg_catalog as $$
begin
    raise exception using
        errcode = state, message = message, constraint = slug,
        detail = coalesce(detail, ''), hint = coalesce(hint, '');
end $$;

create or replace function atoll.setting(wanted text) returns text
language sql stable
return (select value from atoll.setting where name = wanted);
