-- Routes: where requests for a name may be answered, as the atoll's owner has said.
--
-- atoll.route is a shared table: a route that is set on one node holds on all of them.

create table atoll.route (
    name                text             primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    models              jsonb            not null,                  -- by kind of place, the models that answer there
    prefer              text[]           not null,                  -- kinds, names of nodes, cloud:NAME; nowhere else
    deadline_seconds    double precision not null default 300,
    first_token_seconds double precision,
    max_cost            double precision,                           -- of one request
    labels              jsonb            not null default '{}',     -- of requests, each with its scope
    hedge_after_seconds double precision,
    options             jsonb            not null default '{}'      -- keys: the names of those that may use it
);
