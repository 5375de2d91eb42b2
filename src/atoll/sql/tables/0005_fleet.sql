-- The fleet: who links to whom, and how far each node has heard every other.
--
-- atoll.region and atoll.tie are shared tables. The rest is local.

-- A region is a place with a law of its own: what is scoped to it stays in it.
create table atoll.region (
    name text primary key check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    law  text not null default '',      -- GDPR, CCPA, ...
    note text not null default ''
);

-- What people decided about single links, beside what follows from the tiers.
create table atoll.tie (
    a    integer not null check (a < b),
    b    integer not null,
    kind text    not null check (kind in ('link', 'cut')),
    why  text    not null default '',
    primary key (a, b)
);

-- The nodes that this one has links to, as the topology has it. Of several upstreams one is in use.
create table atoll.neighbour (
    number integer primary key,
    role   text    not null check (role in ('up', 'side', 'down', 'tie', 'kin')),
    in_use boolean not null default true
);

-- A node numbers marks in its log. Who has heard mark n of an origin in a scope has every change that the origin
-- committed before it in that scope. A mark names the one before it, so that a missing stretch is noticed:
-- later marks wait in `ahead` until it is filled.
create table atoll.heard (
    origin   integer     not null,
    scope    text        not null,
    n        bigint      not null,
    horizon  xid8        not null default '0',  -- every transaction of the origin before this one is included
    covered  bigint      not null default 0,    -- so is every stamp that it gave up to this one
    others   jsonb       not null default '{}', -- the latest mark of each of its scopes
    ahead    jsonb,
    gap_since timestamptz,
    trimmed  xid8        not null default '0',  -- this node has deleted what came to it up to here
    heard_at timestamptz not null default now(),
    primary key (origin, scope)
);

-- The last mark that this node made. Stamps up to `sample` were given before transaction `sample_xid`.
create table atoll.pulse (
    only_row   boolean primary key default true check (only_row),
    n          bigint  not null default 0,
    xid        xid8    not null default '0',    -- changes of transactions before this one are covered
    sample     bigint  not null default 0,
    sample_xid xid8    not null default '0',
    covered    bigint  not null default 0,
    made_at    timestamptz not null default '-infinity'
);
insert into atoll.pulse default values;
