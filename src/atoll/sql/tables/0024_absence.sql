-- Members that were away for so long that the others have forgotten what they would have to be told.
--
-- atoll.absence is a shared table: one node's word reaches all, and the member itself. The rest is local.

create table atoll.absence (
    number      integer     primary key,
    since       timestamptz not null,   -- when the others stopped waiting for it
    heard       bigint      not null,   -- what it wrote up to this stamp was known by then
    by_node     integer     not null,
    returned_at timestamptz             -- it has what the others have again; absent while `since` is later
);

-- For how long a member has not been heard, counted only while this node was up and heard most of the others.
create table atoll.silence (
    number   integer          primary key,
    seconds  double precision not null default 0,
    noted_at timestamptz      not null default clock_timestamp()
);

-- A return that has begun: this node takes over a copy of what another one has, row by row.
create table atoll.returning (
    only_row boolean primary key default true check (only_row),
    token    text    not null,          -- names the copy that was asked for
    source   integer not null,
    known    jsonb   not null,          -- up to which stamp of each node the source had everything
    scopes   text[]  not null,          -- those that both may have
    xid      xid8    not null,          -- entries written by later transactions were compared with the copy
    stamp    bigint  not null,
    began_at timestamptz not null default clock_timestamp(),
    arrived  jsonb                      -- the copy is here, of these tables
);

insert into atoll.setting values
    ('absence_max', '90 days', 'After so long the others wait for a silent member no more: when it is back, it takes over what they have.');
