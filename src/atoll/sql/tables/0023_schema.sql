-- Changes of the shape of shared tables.
--
-- atoll.schema_change is a shared table of facts: what it says travels in the log, in order with the rows that it is
-- about, and in seeds and files like everything else. The rest says how far this node has carried it out.

create table atoll.schema_change (
    stamp     bigint primary key,
    tbl       text   not null,
    ops       jsonb  not null,      -- [{"do": "add", "column": "colour", ...}, ...]
    statement text   not null default ''
);

-- The latest word on each item of a table: a column, one trait of it, a constraint, an index. Later stamps win.
create table atoll.schema_item (
    tbl   text   not null,
    item  text   not null,          -- c:COLUMN, c:COLUMN:type|default|not_null, k:CONSTRAINT, i:INDEX
    stamp bigint not null,
    op    jsonb  not null,
    primary key (tbl, item)
);

-- What has been carried out here, and what could not be yet.
create table atoll.schema_done (
    stamp    bigint  primary key,
    problem  text,
    tries    integer not null default 1,
    retry_at timestamptz not null default clock_timestamp()
);

-- What a table looked like when this node last looked, to tell what a statement has changed.
create table atoll.local_shape (
    tbl   text  primary key,
    shape jsonb not null
);

alter table atoll.local_column
    add column is_added boolean not null default false,     -- it came with a schema change
    add column fill text;                                   -- and this is its value in rows that say nothing of it

alter table atoll.conflict drop constraint conflict_kind_check;
alter table atoll.conflict add constraint conflict_kind_check check (kind in ('update', 'insert', 'delete', 'unique', 'fact', 'schema'));
