-- What is shared, and how each column merges.
--
-- atoll.shared_table is itself shared: declaring a table on one node declares it on all. atoll.local_table and
-- atoll.local_column say how this node carries the declaration out.

create table atoll.shared_table (
    name       text   primary key,      -- schema and name, quoted where SQL needs it
    kind       text   not null check (kind in ('merge', 'append')),
    merge      jsonb  not null default '{}',
    scope      text   not null default 'global' check (scope in ('global', 'region', 'node', 'local')),
    scope_column text,                  -- says it row by row, where it is not null
    definition text   not null,         -- how a node that lacks the table makes it
    declared   bigint not null          -- stamp
);

create table atoll.local_table (
    name    text primary key,
    side    text not null unique,       -- the sidecar's name in schema atoll_side
    kind    text not null,
    merge   jsonb not null,
    scope   text not null default 'global',
    scope_column text,
    relid   oid  not null,
    swept   bigint not null default 0,  -- the page of the sidecar up to which it was gone through
    shape   text,                       -- what atoll.shape_of said when it was installed
    problem text,
    made_at timestamptz not null default now()
);

create table atoll.local_column (
    tbl      text     not null references atoll.local_table,
    name     text     not null,
    ordinal  integer  not null,
    type     text     not null,         -- without its modifier
    wire     text     not null,         -- element type of its array literal in a change
    is_key   boolean  not null,
    equals   text,                      -- the key's equality operator, qualified
    policy   text     not null check (policy in ('key', 'lww', 'counter', 'max', 'min', 'first', 'set', 'document', 'function', 'scope')),
    together text,                      -- columns of one group move together
    fold     text,                      -- the merge function, qualified
    in_unique boolean not null default false,
    primary key (tbl, name),
    unique (tbl, ordinal)
);
