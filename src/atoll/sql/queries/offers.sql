-- others: what the other members offer
select o.node, n.name, n.tier, o.model, o.version, o.variant, o.skills, o.adapters, o.context_tokens, o.state, o.queue,
       o.tokens_per_second, o.is_upstream, o.region, n.region, o.price_in, o.price_out
  from atoll.offer o join atoll.peers() n on n.number = o.node order by o.node, o.model;

-- members: how many nodes there are
select count(*) from atoll.node where revoked_at is null;

-- say: what this node offers of a model
insert into atoll.offer (node, model, version, variant, skills, adapters, context_tokens, state, queue, tokens_per_second,
                         is_upstream, region, price_in, price_out)
values (atoll.me(), %(model)s, %(version)s, %(variant)s, %(skills)s, %(adapters)s, %(context_tokens)s, %(state)s, %(queue)s,
        %(tokens_per_second)s, %(is_upstream)s, %(region)s, %(price_in)s, %(price_out)s)
on conflict (node, model) do update
   set (version, variant, skills, adapters, context_tokens, state, queue, tokens_per_second, is_upstream, region, price_in, price_out)
     = (excluded.version, excluded.variant, excluded.skills, excluded.adapters, excluded.context_tokens, excluded.state,
        excluded.queue, excluded.tokens_per_second, excluded.is_upstream, excluded.region, excluded.price_in, excluded.price_out)
 where offer is distinct from excluded;

-- forget: what this node offers no more, and what nobody does because its node has left
delete from atoll.offer o where o.node = atoll.me() and o.model <> all (%s)
       or o.node in (select n.number from atoll.node n where n.revoked_at is not null);

-- everywhere: what is offered on all nodes, and whether this one has a link there
select o.model, n.name as node, o.version, o.variant, o.skills, o.adapters, o.context_tokens, o.state, o.queue,
       o.tokens_per_second, o.is_upstream, o.region, o.price_in, o.price_out, o.node = atoll.me() as is_here,
       coalesce(l.state = 'up', false) as is_linked, l.rtt_ms
  from atoll.offer o join atoll.node n on n.number = o.node and n.revoked_at is null
  left join atoll.link_state l on l.peer = o.node order by o.model, is_here desc, n.name;
