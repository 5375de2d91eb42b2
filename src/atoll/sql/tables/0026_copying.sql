-- Copies of everything that are being written for peers, and how far each is. Local to the node.

create table atoll.copying (
    peer     integer     primary key,
    misses   integer     not null,              -- the miss that it makes up for; after another one it starts anew
    heard    jsonb       not null,
    done     text[]      not null default '{}', -- tables that are whole
    tbl      text,                              -- the one that is next, and the key up to which it is written
    after    text        not null default '',
    rows     bigint      not null default 0,
    ended    pg_lsn,                            -- the end of what was written
    token    text,                              -- the return of an absent member that it is for
    began_at timestamptz not null default clock_timestamp(),
    moved_at timestamptz not null default clock_timestamp()
);
