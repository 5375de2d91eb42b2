-- Answers of models that are given again to whoever asks the same, where a route says so.
--
-- A shared table: an answer travels as far as what was in its request lets it, and serves every node that it reaches.

create table atoll.answer (
    key      text             primary key,              -- of what was asked, who answered and the scope
    whole    text             not null,                 -- hash of all of the request that makes its answer
    around   text,                                      -- the same without the question
    question text,
    vector   bytea,                                     -- of the question: float32, of length one
    encoder  text,                                      -- whose vector it is, with its version
    route    text             not null,
    model    text             not null,
    version  text             not null,
    variant  text             not null,
    scope    text             not null,
    node     integer          not null,                 -- where it was made
    made_at  double precision not null,                 -- seconds since 1970
    until    double precision not null,
    events   text             not null,
    read     jsonb            not null                  -- tables whose rows were quoted, each with the changes that it had seen
);
create index answer_made on atoll.answer (made_at);
