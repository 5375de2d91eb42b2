-- What a node knew of another one before it heard of something that it has not yet heard.

-- The last stamp of the origin up to which nothing was missing here, and the region that this node was in.
alter table atoll.heard add column known bigint not null default 0, add column known_here text;
