-- What a key may not: more often, more, elsewhere. Each only narrows; none is said where it is null.

alter table atoll.api_key add column rate       text;    -- requests, on each node: 60/min
alter table atoll.api_key add column token_rate text;    -- tokens, on each node
alter table atoll.api_key add column budget     text;    -- that pays for what is asked with it, in the whole atoll
alter table atoll.api_key add column scope      text;    -- of everything that is asked with it
alter table atoll.api_key add column tables     text[];  -- that it may read, where it may read at all
