-- ties: links that people asked for, or cut
select a, b, kind from atoll.tie order by a, b;

-- upstream_in_use: the upstream that was used last
select number from atoll.neighbour where role = 'up' and in_use;

-- set_neighbours: writes down who the neighbours are; says whether that is news
select atoll.set_neighbours(%s);

-- make_marks: covers what is in the log
select atoll.make_marks(%s);

-- heard: how far this node has heard the others
select coalesce(jsonb_agg(jsonb_build_array(origin, scope, n)), '[]') from atoll.heard;

-- note_heard: how far a node has come that receives from another one
select atoll.note_heard(%s, %s);

-- gaps: changes that went missing, for so long that they will not come by themselves
select count(*) from atoll.heard where gap_since < now() - %s * interval '1 second';

-- members_and_standbys: how many nodes there are, and which upstreams stand by
select (select count(*) from atoll.peers()) + 1,
       (select coalesce(array_agg(number), '{}') from atoll.neighbour where role = 'up' and not in_use);

-- nearest: of these neighbours the one to get a copy from
select n.number from atoll.neighbour n left join atoll.link_state l on l.peer = n.number
 where n.number = any (%s) order by n.role <> 'up', n.role = 'down', l.rtt_ms nulls last, n.number limit 1;
