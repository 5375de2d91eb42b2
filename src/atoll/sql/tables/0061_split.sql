-- Models over several nodes.

-- The version of the engine for whose models a node can hold layers; null where it has not built what that takes.
alter table atoll.room add column split_engine text;

-- Who holds which layers of a model that is loaded here and split.
alter table atoll.model_state add column split text;
