-- Who may read what of the change log. A peer that begins anew copies it: this policy shows it what it may have. The
-- filter of the link says in atoll.peer which peer it is; without that, the link's role sees nothing.

create or replace function atoll.reader() returns integer
language sql stable security definer set search_path = pg_catalog
return nullif(current_setting('atoll.peer', true), '')::integer;

create or replace function atoll.reader_scopes() returns text[]
language sql stable security definer set search_path = pg_catalog
return atoll.scopes_of(atoll.reader());

do $$
begin
    if not (select relrowsecurity from pg_class where oid = 'atoll.change'::regclass) then
        alter table atoll.change enable row level security;
        create policy of_others on atoll.change for select using (current_user <> 'atoll_link');
    end if;
    if exists (select from pg_roles where rolname = 'atoll_link') then
        grant execute on function atoll.reader(), atoll.reader_scopes() to atoll_link;
        if not exists (select from pg_policy where polrelid = 'atoll.change'::regclass and polname = 'of_peers') then
            create policy of_peers on atoll.change for select to atoll_link
                using (scope = any ((select atoll.reader_scopes())::text[]) and (target is null or target = (select atoll.reader())));
        end if;
    end if;
end $$;
