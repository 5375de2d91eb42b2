-- Keys with which programs ask models over HTTP. A shared table: a key made on one node is good on all.

create table atoll.api_key (
    name       text        primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    sha256     text        not null,        -- the key itself is shown once, and kept nowhere
    made_at    timestamptz not null default clock_timestamp(),
    revoked_at timestamptz
);
