-- Opening a tuning: what has to hold of it whoever asks. How rounds go is decided in training/rounds.py.

create or replace function atoll.open_tuning(called text, of_base text, told jsonb, of_scope text) returns text
language plpgsql set search_path = pg_catalog as $$
declare
    named constant text := atoll.scope_of(of_scope, 'global');
begin
    if coalesce(called, '') !~ '^[a-z0-9][a-z0-9._-]{0,62}$' then
        perform atoll.refuse('tuning-malformed', format('cannot name a tuning %s', coalesce(quote_literal(called), 'null')), hint => 'A name has up to 63 small letters, digits, dots, hyphens and underscores.');
    elsif not atoll.admits(named) then
        perform atoll.refuse('tuning-scope', format('cannot keep a tuning of scope "%s": this node is not in it', named), 'Its parts would not be here.', state => 'AT003');
    elsif exists (select from atoll.tuning t where t.name = called) then
        perform atoll.refuse('tuning-exists', format('there is a tuning "%s" already', called), hint => 'Choose another name. See: atoll round list');
    elsif (select count(*) from atoll.tuning t where t.ended_at is null) >= 100 then
        perform atoll.refuse('tunings-many', 'there are 100 tunings already that have not ended', hint => 'End one: atoll round end NAME');
    end if;
    insert into atoll.tuning (name, base, wish, keeper, scope, made_at) values (called, of_base, told, atoll.me(), named, atoll.time_after());
    return called;
end $$;
