-- By what a node knows that it was restored or copied, and what it had to change for it. Local to the node.

-- One row for each time that the node came up. The home remembers the last one too, and so does every peer that it met.
create table atoll.incarnation (
    id        text        primary key,
    ordinal   bigint      generated always as identity,
    number    integer     not null,
    began_at  timestamptz not null default now(),
    lsn       pg_lsn      not null,     -- the end of the WAL when it began
    system_id bigint      not null,     -- of the server, made by initdb
    timeline  integer     not null
);

-- Numbers that this node had before, and why it gave them up.
create table atoll.former (
    number integer     primary key,
    until  timestamptz not null default now(),
    why    text        not null,
    told_at timestamptz                 -- since then, everybody can have what was here
);

-- What a peer said of itself when the two last met.
create table atoll.acquaintance (
    peer        integer     primary key,
    incarnation text        not null,
    certificate text,
    met_at      timestamptz not null default now()
);
