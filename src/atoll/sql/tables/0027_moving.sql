-- What a node brings that has moved here from another atoll: tables that it shared there. Local to the node; each row
-- goes when its table is shared here.

create table atoll.brought (
    name         text  primary key,
    kind         text  not null,
    merge        jsonb not null,
    scope        text  not null,
    scope_column text,
    orphans      text,              -- the rule for its orphans
    times        text,              -- the table that says when its rows were written; append tables have none
    problem      text               -- why it could not be shared here
);

alter table atoll.self add column moves boolean not null default false;    -- it has moved here, and has still to share what it brought
