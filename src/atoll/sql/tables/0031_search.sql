-- What can be searched, and how the indexes for it fare on this node.
--
-- atoll.search_rule is a shared table: what it says of a table holds on every node. Each makes the indexes by itself.

create table atoll.search_rule (
    tbl       text   primary key,
    texts     text[] not null,      -- columns whose words are searched
    embedding text,                 -- column of vectors
    language  text   not null       -- PostgreSQL's text search configuration
);

-- An index that could not be made here.
create table atoll.search_trouble (
    name     text        primary key,
    problem  text        not null,
    tries    integer     not null default 1,
    retry_at timestamptz not null
);
