-- The change log and what surrounds it.
--
-- atoll.change is the only published table, and it is only ever inserted into. A row of it is one statement's
-- effect on one shared table (or a chunk of it): `cols` names columns, `vals` holds for each of them the array
-- literal of its `n` values, so a change is a small table stored by column. docs/wire-format.md draws it.
-- xid is local: with seq and origin it orders a node's own and arriving changes for the feed.

create sequence atoll.change_seq;

create table atoll.change (
    origin  integer  not null,
    seq     bigint   not null,
    version smallint not null default 1,
    tbl     text     not null,
    op      "char"   not null,          -- I insert, U update, D delete, S state, X out of scope, M mark
    at      bigint   not null,          -- the statement's stamp
    ats     text,                       -- stamps row by row, where they differ
    prev    bigint,                     -- the stamp that was overwritten, where all rows agree on it
    prevs   text[],                     -- the same column by column and row by row, where they do not
    epochs  text,                       -- deletions that the rows had seen, for columns with a merge policy
    n       integer  not null,
    cols    text[]   not null,
    vals    text[]   not null,
    target  integer,                    -- meant for one member alone: a seed
    scope   text     not null default 'global',
    xid     xid8     not null default pg_current_xact_id(),
    via     integer,                    -- the neighbour that it came from, and in which role: (u)p, (s)ide, (d)own,
    way     "char",                     -- (t)ie or (k)in; null for this node's own
    primary key (origin, seq)
);
alter table atoll.change alter column vals set storage external;
create index change_by_xid on atoll.change (xid, seq, origin);
create index change_marks on atoll.change (xid) where op = 'M';

create table atoll.parked (
    origin    integer not null,
    seq       bigint  not null,
    tbl       text    not null,
    change    jsonb   not null,
    code      text    not null,
    reason    text    not null,
    attempts  integer not null default 1,
    parked_at timestamptz not null default clock_timestamp(),
    retry_at  timestamptz not null,
    primary key (origin, seq)
);

create table atoll.conflict (
    id         bigint generated always as identity primary key,
    seen_at    timestamptz not null default clock_timestamp(),
    tbl        text   not null,
    key        jsonb  not null,
    col        text,                    -- null: the whole row
    kind       text   not null check (kind in ('update', 'insert', 'delete', 'unique', 'fact')),
    lost_value text,
    lost_row   jsonb,
    lost_stamp bigint not null,
    won_value  text,
    won_stamp  bigint not null,
    why        text   not null,
    reverted_at timestamptz
);
create unique index conflict_once on atoll.conflict (tbl, md5(key::text), coalesce(col, ''), lost_stamp, won_stamp);

-- A stamp that a later write named as its forerunner before it had come here: its arrival is no conflict.
create table atoll.expected (
    tbl     text   not null,
    key     jsonb  not null,
    col     text   not null,
    stamp   bigint not null,
    seen_at timestamptz not null default now(),
    primary key (tbl, key, col, stamp)
);

-- How far each neighbour has come in this node's log, so that the log may be trimmed.
create table atoll.waypoint (
    lsn     pg_lsn primary key,
    xid     xid8   not null,
    made_at timestamptz not null default now()
);
create table atoll.progress (
    peer      integer primary key,
    xid       xid8    not null default '0',     -- every change with a smaller xid has been applied there
    copied    boolean not null default false,   -- it says that its first copy is done: what it confirms, it has applied
    wanted    text,                             -- the row filter that was asked for, and what PostgreSQL made of it
    filter    text,
    missed    boolean not null default false,   -- changes were deleted that it had not seen: it needs a seed
    misses    integer not null default 0,       -- how often that happened
    cut       xid8    not null default '0',     -- changes up to here were deleted that only its slot can give it now
    heard_at  timestamptz not null default now()
);

create table atoll.cursor (
    name    text primary key,
    tables  text[] not null,
    xid     xid8   not null,
    pos     bigint not null,
    missed  boolean not null default false,     -- changes were deleted that it had not passed
    made_at timestamptz not null default now(),
    read_at timestamptz not null default now()
);
