-- Models: which there are, and where each is wanted.
--
-- atoll.model and atoll.desired_model are shared tables: what they say holds on every node. atoll.model_state is local.

-- A version of a model. Its manifest says which files it has, by their hashes, and is signed by the node that added it.
create table atoll.model (
    name        text        not null check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    version     text        not null,
    manifest    jsonb       not null,
    signature   text        not null,
    certificate text        not null,
    added_by    integer     not null,
    added_at    timestamptz not null default clock_timestamp(),
    primary key (name, version)
);

-- Where a model is wanted, in which version. The place is a scope; what is said of a node counts more than what is said
-- of its region, and that more than what is said of all.
create table atoll.desired_model (
    model   text    not null,
    place   text    not null check (place ~ '^(global|region:.+|node:[0-9]+)$'),
    version text,                           -- none where it is not wanted here, whatever a wider place says
    variant text,                           -- the best that fits, where none is named
    is_kept boolean not null default false, -- loaded at once, and kept loaded
    options jsonb   not null default '{}',  -- context_tokens, parallel
    primary key (model, place)
);

-- How each model is on this node, as the node's process last said.
create table atoll.model_state (
    model        text        primary key,
    version      text        not null,
    variant      text,
    state        text        not null,
    problem      text,
    memory_bytes bigint,
    said_at      timestamptz not null default clock_timestamp()
);
