-- state: whether this node has to return, as it or a peer knows, and how far that is
select atoll.is_absent(atoll.me()) or coalesce(%(told)s::timestamptz > coalesce((
           select max(a.returned_at) from atoll.absence a
            where a.number = atoll.me() or a.number in (select o.number from atoll.node o join atoll.node n on n.name = o.name where n.number = atoll.me())), '-infinity'), false),
       r.source, r.token, r.arrived is not null
  from (select) o left join atoll.returning r on true;

-- candidates: whom a copy could be taken from
select p.number, atoll.is_absent(p.number), p.region = s.region, coalesce(n.role = 'up', false), l.rtt_ms
  from atoll.peers() p cross join atoll.self s
  left join atoll.neighbour n on n.number = p.number
  left join atoll.link_state l on l.peer = p.number;

-- absent: members that nobody waits for
select number from atoll.peers() where atoll.is_absent(number);

-- note_absences: counts silence, marks who was silent for too long, says who will be
select a.number, a.is_marked, a.after, n.name from atoll.note_absences() a left join atoll.node n using (number);

-- context: up to where this node knows everything, for a member that returns
select atoll.known_stamps() where atoll.is_absent(%s);

-- begin: writes down from whom a copy is taken
select atoll.begin_return(%s, %s, %s);

-- seed: the copy, for a member that returns
call atoll.seed_returning(%s, %s);

-- finish: drops what the others do not have any more
call atoll.finish_return();
