-- A peer that begins anew in the log gets what it has not heard.

-- Of what lies before this place in the log the peer has heard everything: it is not sent again.
alter table atoll.progress add column since xid8 not null default '0';
