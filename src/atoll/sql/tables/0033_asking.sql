-- Columns whose meaning is kept as vectors, and keys that may read rows.
--
-- atoll.embedding is a shared table: what it says holds on every node. The vectors are each node's own.

create table atoll.embedding (
    tbl        text    not null,
    col        text    not null,
    pipeline   text    not null,        -- that makes the vectors
    output     text    not null,        -- the table that they are in, by the key of tbl
    model      text    not null,
    dimensions integer not null,
    primary key (tbl, col)
);

-- Which of them this node carries out, as of which declaration of the pipeline.
create table atoll.local_embedding (
    tbl      text   not null,
    col      text   not null,
    relid    oid    not null,
    declared bigint not null,
    primary key (tbl, col)
);

alter table atoll.api_key add column may_read boolean not null default false;  -- whoever has the key may ask about rows
