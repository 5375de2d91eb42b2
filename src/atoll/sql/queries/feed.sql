-- open: a cursor at now, unless it is there already
select atoll.open_feed(%s, %s);

-- read: the next changes
select xid::text, pos, origin, "table", op::text, at, "row" from atoll.read_feed(%s, %s);

-- read_after: the next changes after a place that the cursor has not reached
select xid::text, pos, origin, "table", op::text, at, "row" from atoll.read_feed_after(%s, %s::xid8, %s, %s);

-- exists: whether there is such a feed
select exists (select from atoll.cursor where name = %s);

-- move: the caller is done up to here
select atoll.move_feed(%s, %s::xid8, %s);
