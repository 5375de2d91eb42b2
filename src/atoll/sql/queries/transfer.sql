-- receiver: a member by its name or number, and its certificate if the two have met
select n.number, n.name, a.certificate, n.number = atoll.me()
  from atoll.node n left join atoll.acquaintance a on a.peer = n.number
 where (n.name = %(node)s or n.number::text = %(node)s) and n.revoked_at is null;

-- is_member: whether somebody may still send
select exists (select from atoll.node where number = %s and revoked_at is null);

-- is_absent: whether it was away for so long that what it has may be outdated
select atoll.is_absent(%s);

-- last: the last file for a member that was written here, or the last of those that it says it has read
select id::text, horizon::text from atoll.transfer
 where peer = %s and is_ours and (not %s or arrived_at is not null) order by ordinal desc limit 1;

-- received: the last file of a member that was read here
select id::text from atoll.transfer where peer = %s and not is_ours order by ordinal desc limit 1;

-- is_received: whether a file was read here
select exists (select from atoll.transfer where id = %s and not is_ours);

-- snapshot: what is committed now; and how old a row may be to be newer than what was committed then
select pg_snapshot_xmin(pg_current_snapshot())::text,
       case when %(since)s::text is null or pg_snapshot_xmax(pg_current_snapshot())::text::numeric - %(since)s::text::numeric > 2000000000 then 2147483647
            else age(%(since)s::text::xid8::xid) end;

-- scopes: what a member may have
select atoll.scopes_for(%s);

-- tables: in the order in which they have to arrive
select atoll.tables_in_order();

-- rows: what has changed in a table, as changes
select op::text, at, ats, prev, n, cols, vals, scope from atoll.rows_as_changes(%s, %s, %s);

-- number_change: a change of a file has a number of this node too
select nextval('atoll.change_seq');

-- sent: remembers a file that was written
insert into atoll.transfer (id, peer, is_ours, horizon) values (%s, %s, true, %s::xid8);

-- read: remembers a file that was read
insert into atoll.transfer (id, peer, is_ours) values (%s, %s, false) on conflict (id) do nothing;

-- forget: of the files to and from a member, the last hundred are remembered
delete from atoll.transfer t where t.peer = %(peer)s and t.ordinal <= (select max(ordinal) from atoll.transfer) - 100
   and t.ordinal < (select max(s.ordinal) from atoll.transfer s where s.peer = t.peer and s.is_ours = t.is_ours and (s.arrived_at is not null) = (t.arrived_at is not null));

-- arrived: the other side has read a file, and with it those before
update atoll.transfer t set arrived_at = coalesce(t.arrived_at, now())
  from atoll.transfer s where s.id = %s and s.is_ours and t.is_ours and t.peer = s.peer and t.ordinal <= s.ordinal;

-- know: keeps a member's certificate, so that a file can be sealed to it
insert into atoll.acquaintance (peer, incarnation, certificate) values (%s, '', %s)
on conflict (peer) do update set certificate = excluded.certificate;

-- has_others: whether anybody else may have to be told
select exists (select from atoll.peers() where number <> %s);

-- take: one change of a file
select fresh, merged from atoll.take_change(%s, %s);
