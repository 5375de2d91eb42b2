-- What the node process says about itself, and what is asked of it. Local to the node.

-- Links as they are now; the process writes it every few seconds.
create unlogged table atoll.link_state (
    peer        integer primary key,
    state       text not null,
    dialled_by  integer,
    rtt_ms      double precision,
    bytes_in    bigint not null default 0,
    bytes_out   bigint not null default 0,
    reconnects  integer not null default 0,
    receiving   text,                   -- how the subscription to the peer is
    problem     text,
    seen_at     timestamptz not null default now()
);

-- Work that only the node process can do, such as asking peers: a command adds a row and waits for its answer.
create unlogged table atoll.errand (
    id          uuid primary key default gen_random_uuid(),
    kind        text  not null,
    details     jsonb not null default '{}',
    asked_at    timestamptz not null default now(),
    answer      jsonb,
    answered_at timestamptz
);
