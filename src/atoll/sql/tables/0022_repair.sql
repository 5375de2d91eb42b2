-- What receipts found, and what was mended for it. Local to the node.

-- A stretch of a table in the order of its key, as it was when it was last compared and found right: a hash of the
-- stamps and one of the values. Where the stamps are still the same and the values are not, somebody wrote past the
-- triggers.
create table atoll.slice (
    id      bigint generated always as identity primary key,
    tbl     text        not null,
    after   text        not null,       -- the key before the first, as the text of an array; empty at the beginning
    upto    text,                       -- the last key; null at the end
    shape   text        not null,       -- the columns' names, hashed
    n       bigint      not null,
    stamps  text        not null,
    vals    text        not null,
    seen_at timestamptz not null default clock_timestamp()
);
create unique index slice_by_start on atoll.slice (tbl, md5(after));

-- Rows that differ from a neighbour's for longer than anything is on its way.
create unlogged table atoll.difference (
    tbl      text        not null,
    key      text        not null,
    since    timestamptz not null default clock_timestamp(),
    nodes    integer[]   not null,
    will     text        not null,      -- what a repair here would do
    why      text        not null
);
create unique index difference_once on atoll.difference (tbl, md5(key));

-- Every row that was mended here, with what it was before.
create table atoll.repair (
    id      bigint generated always as identity primary key,
    at      timestamptz not null default clock_timestamp(),
    tbl     text        not null,
    key     text        not null,
    kind    text        not null check (kind in ('join', 'value', 'adopt')),
    like_node integer,                  -- whose state it was given
    was     jsonb,
    became  jsonb,
    why     text        not null
);
