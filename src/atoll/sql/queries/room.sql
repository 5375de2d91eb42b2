-- say: what models may take on this node, and what they take
insert into atoll.room (node, bytes_max, bytes_taken, split_engine)
values (atoll.me(), %(bytes_max)s, %(bytes_taken)s, %(split_engine)s)
on conflict (node) do update
   set (bytes_max, bytes_taken, split_engine) = (excluded.bytes_max, excluded.bytes_taken, excluded.split_engine)
 where room is distinct from excluded;

-- forget: this node's, where it has no models; and those of nodes that have left
delete from atoll.room r where (r.node = atoll.me() and %s) or r.node in (select n.number from atoll.node n where n.revoked_at is not null);

-- everywhere: the room of all members, and whether this node has a link there; null where a node has not said
select n.name as node, n.region, r.bytes_max, r.bytes_taken, r.split_engine, n.number = atoll.me() as is_here,
       coalesce(l.state = 'up', false) as is_linked, l.rtt_ms
  from atoll.node n left join atoll.room r on r.node = n.number left join atoll.link_state l on l.peer = n.number
 where n.revoked_at is null order by is_here desc, n.name;

-- lenders: other nodes of this one's region that can hold layers for this engine
select n.number, n.name as node, n.region, r.bytes_max, r.bytes_taken
  from atoll.room r join atoll.node n on n.number = r.node
 where n.revoked_at is null and n.number <> atoll.me() and r.split_engine = %s
   and n.region = (select m.region from atoll.node m where m.number = atoll.me()) order by n.number;

-- region_of: a member's
select region from atoll.node where number = %s and revoked_at is null;
