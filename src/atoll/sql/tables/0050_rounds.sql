-- Learning together without moving rows: adapters that nodes tune on their own rows, and what they come to.
--
-- All three are shared tables whose rows travel as far as the tuning's scope lets them: weights may remember rows.

create table atoll.tuning (
    name      text        primary key check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    base      text        not null,                        -- a hash of the model's weights: who has others cannot take part
    wish      jsonb       not null,                        -- how every node trains and how one averages (training/rounds.py)
    keeper    integer     not null,                        -- the node that averages
    scope     text        not null,
    made_at   timestamptz not null,
    ended_at  timestamptz
);

-- What a node learned in a round, or, of node 0, what the round began with: weights, cut into pieces.
create table atoll.tuning_part (
    tuning    text        not null,
    round     integer     not null check (round >= 0),
    node      integer     not null,
    piece     integer     not null check (piece between 0 and 255),
    scope     text        not null,
    pieces    integer     not null check (pieces between 1 and 256),
    rows      bigint      not null check (rows >= 0),       -- that it was learned from
    hash      text        not null,                        -- of all pieces together
    made_at   timestamptz not null,
    weights   bytea       not null check (octet_length(weights) <= 262144),
    primary key (tuning, round, node, piece)
);

-- What each node found of a round's average, on rows of its own that nobody learned from.
create table atoll.tuning_verdict (
    tuning    text             not null,
    round     integer          not null,
    node      integer          not null,
    scope     text             not null,
    rows      bigint           not null,
    before    double precision not null,                   -- the loss with what the node had kept so far
    after     double precision not null,
    is_kept   boolean          not null,
    made_at   timestamptz      not null,
    primary key (tuning, round, node)
);
