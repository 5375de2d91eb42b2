-- Who this node is, and who else belongs to the atoll.
--
-- atoll.self is local and has one row. atoll.node is a shared table: every node's row reaches every node.

create schema atoll;
create schema atoll_side;
comment on schema atoll is 'Atoll: shared tables that converge';
comment on schema atoll_side is 'Atoll: one sidecar per shared table, and the functions generated for it';

create table atoll.migration (
    name       text primary key,
    applied_at timestamptz not null default now()
);

create table atoll.setting (
    name  text primary key,
    value text not null,
    about text not null
);
insert into atoll.setting values
    ('future_bound',       '5 min',   'A stamp further ahead of this clock is parked until its time has come.'),
    ('chunk_rows',         '500',     'Rows in one change at most.'),
    ('chunk_bytes',        '1000000', 'Bytes in one change, about.'),
    ('change_retention',   '7 days',  'A change that a member has not acknowledged is kept this long.'),
    ('change_bytes_max',   '2147483648', 'The change log may grow to this size for absent members.'),
    ('tombstone_retention', '30 days', 'A deleted row is remembered at least this long; no backup older than that may be restored.'),
    ('conflict_retention', '30 days', 'A conflict stays listed this long.'),
    ('conflict_rows_max',  '100000',  'Conflicts listed at most; the oldest go first.');

create table atoll.self (
    only_row  boolean primary key default true check (only_row),
    atoll_id  uuid     not null,
    number    integer  not null check (number between 1 and 65535),
    name      text     not null,
    region    text     not null default 'local',
    introduced jsonb   not null default '[]',   -- peers that the inviting node named, until their rows come
    seeded_at timestamptz,                      -- null while a node that joined waits for what the others have
    seeded_without integer[] not null default '{}'  -- peers that were away then: what they deleted meanwhile is still missing
);

create table atoll.node (
    number     integer     primary key check (number between 1 and 65535),
    name       text        not null,
    region     text        not null,
    tier       text        not null check (tier in ('edge', 'hub', 'cloud')),
    addresses  text[]      not null default '{}',
    joined_at  timestamptz not null default now(),
    revoked_at timestamptz,
    ended      text                     -- why it is no member any more: left, evicted
);

create table atoll.invitation (
    id          uuid        primary key,
    secret_hash text        not null,
    expires_at  timestamptz not null,
    wishes      jsonb       not null default '{}',
    made_at     timestamptz not null default now(),
    used_at     timestamptz,
    used_by     integer
);
