-- Rollups: what a table's rows come to, window by window.
--
-- atoll.rollup_rule and atoll.rollup_part are shared tables: a rollup that is declared on one node is kept by all, and
-- what each node's rows come to travels where the rollup's scope lets it. The rest is local. Beside these, every rollup
-- has a table of its own in atoll_side: what statements added since its parts were last brought up to date.

create table atoll.rollup_rule (
    name       text   primary key,      -- the view's schema and name, quoted where SQL needs it
    definition jsonb  not null,
    declared   bigint not null          -- stamp; parts of another declaration do not count
);

-- What the rows of one window and group come to on one node.
create table atoll.rollup_part (
    rollup  text        not null,
    bucket  timestamptz not null,
    node    integer     not null,
    key     uuid        not null,       -- hash of the group
    groups  jsonb       not null,       -- values of the by-columns
    n       bigint      not null,
    state   jsonb       not null,       -- counts, sums, least and greatest values, by the number of the measure
    sketch  jsonb       not null,       -- histograms and least hashes: large, and not read unless they are asked for
    version bigint      not null,
    scope   text,
    primary key (rollup, bucket, node, key)
);

-- How this node carries a rollup out.
create table atoll.local_rollup (
    name       text    primary key,
    side       text    not null unique,
    definition jsonb   not null,
    declared   bigint  not null,
    relid      oid,                                 -- null where the table is not here
    kept_as    integer not null,                    -- this node's number when it last counted everything
    fill_to    timestamptz default 'infinity',      -- rows from here on are counted; null when all are
    scope      text,
    problem    text,
    made_at    timestamptz not null default now()
);
