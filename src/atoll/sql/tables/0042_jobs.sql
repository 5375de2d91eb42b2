-- Requests of models that are answered later, and budgets.
--
-- atoll.job, atoll.job_claim, atoll.budget and atoll.budget_lease are shared tables. A job and its claims travel as far
-- as the job's scope lets them.

-- What came of a job is told once: of two outcomes the earlier one holds on every node (policy `first`).
create table atoll.job (
    id           bigint      primary key,                   -- of atoll.id()
    model        text        not null,
    path         text        not null,
    body         jsonb       not null,
    scope        text        not null,
    asked_by     integer     not null,                      -- a node
    caller       text,                                      -- the name of an API key, or the role; none where none was needed
    made_at      timestamptz not null,
    deadline     timestamptz not null,
    turn_seconds integer     not null,                      -- how long a lease on it lasts
    tries_max    integer     not null,
    outcome      jsonb                                      -- {state: done | refused | cancelled, node, at, result | problem}
);
create index job_open on atoll.job (made_at) where outcome is null;

-- Each node writes only its own: that it works on a job, until when it may, and how it failed.
create table atoll.job_claim (
    job      bigint      not null,
    node     integer     not null,
    scope    text        not null,
    until    timestamptz,                                   -- none while it does not work on it
    tries    integer     not null default 0,                -- that failed
    retry_at timestamptz,
    problem  text,
    primary key (job, node)
);

-- Money or tokens for each period, whose granter alone says how much of it each node holds.
create table atoll.budget (
    name           text    primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    amount         bigint  not null check (amount >= 0),    -- in millionths where the unit is cost
    unit           text    not null check (unit in ('cost', 'tokens')),
    period_seconds integer not null check (period_seconds between 1 and 31622400),
    granter        integer not null
);

-- `granted` is written by the granter alone, all else by the node itself. Nothing of it ever shrinks.
create table atoll.budget_lease (
    budget   text    not null,
    node     integer not null,
    period   bigint  not null,                              -- counted from 1970
    wanted   bigint  not null default 0,
    granted  bigint  not null default 0,
    drawn    bigint  not null default 0,                    -- put into the pocket of the node's process: spent, or lost with it
    returned bigint  not null default 0,
    primary key (budget, node, period)
);
