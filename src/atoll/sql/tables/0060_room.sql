-- Room: the memory that models may take on each node, and what those take that are loaded.
--
-- atoll.room is a shared table. A node writes its own row only, when something has changed.

create table atoll.room (
    node        integer primary key,
    bytes_max   bigint  not null,
    bytes_taken bigint  not null
);
