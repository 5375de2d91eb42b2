-- standing: whether this node could join another atoll: whom it has, whether it has left them, what it would bring
select s.atoll_id::text, s.name, s.region, coalesce(n.tier, 'edge') as tier,
       (select count(*) from atoll.peers()) as members, n.revoked_at is not null as has_left,
       (select coalesce(array_agg(t.name order by t.name), '{}') from atoll.local_table t where t.name not like 'atoll.%%' and t.problem is null) as tables
  from atoll.self s left join atoll.node n on n.number = s.number;

-- move_in: this database is a new member's of another atoll from now on
select atoll.move_in(%(atoll_id)s, %(number)s, %(name)s, %(met)s);

-- move_back: this database is the same member's, under another number
select atoll.move_back(%(number)s, %(met)s);

-- is_moving: whether it has still to share what it brought
select moves from atoll.self;

-- share: shares what nobody else does, and lets applications write
call atoll.share_brought();

-- admit_back: a member that was one before has to compare what it has with what the others have
select atoll.mark_absent(%s);
