-- Files by which changes travel where no link does. Local to the node.

create table atoll.transfer (
    id        uuid        primary key,
    ordinal   bigint      generated always as identity,
    peer      integer     not null,             -- who it is for, or who it came from
    is_ours   boolean     not null,             -- written here; else read here
    horizon   xid8,                             -- written here: every transaction before this one is in it, or in those before
    made_at   timestamptz not null default now(),
    arrived_at timestamptz                      -- the other side has said that it has read it
);
create index transfer_by_peer on atoll.transfer (peer, is_ours, ordinal);
