-- Requests of which the small model of a cascade was not sure, with what the larger one said: to learn from.
--
-- A shared table: an example travels as far as what was in its request lets it.

create table atoll.example (
    id         bigint           primary key,                -- of atoll.id()
    route      text             not null,
    path       text             not null,
    asked      jsonb            not null,                   -- the body, or the inputs of one row
    first      text             not null,                   -- the small model
    first_said jsonb,                                       -- a text, or a row's outputs; where it is known
    then_model text,                                        -- none where it could not go on
    then_said  jsonb,
    measure    text             not null,
    confidence double precision,
    scope      text             not null,
    node       integer          not null,
    made_at    timestamptz      not null
);
create index example_made on atoll.example (route, made_at);
