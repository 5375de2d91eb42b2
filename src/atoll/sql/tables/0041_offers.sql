-- Offers: which of its models each node answers other nodes with.
--
-- atoll.offer is a shared table. A node writes its own rows only, when something has changed, and few of them.

create table atoll.offer (
    node              integer not null,
    model             text    not null,
    version           text    not null,
    variant           text    not null,
    skills            text[]  not null,
    adapters          text[]  not null,
    context_tokens    integer,
    state             text    not null,    -- empty, loading, ready or leaving
    queue             integer not null,    -- requests there, rounded down to a power of two
    tokens_per_second real,                -- of one answer, as measured there
    is_upstream       boolean not null,    -- the node passes on to somebody else's server
    region            text    not null,    -- of the node, or of that server
    price_in          real,                -- per million tokens; null for what costs nothing
    price_out         real,
    primary key (node, model)
);
