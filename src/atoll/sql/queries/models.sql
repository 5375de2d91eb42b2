-- wanted: what this node is to have, with the manifests and who signed them
select w.model, w.version, w.variant, w.is_kept, w.options, m.manifest, m.signature, m.certificate
  from atoll.wanted_models() w join atoll.model m on m.name = w.model and m.version = w.version order by w.model;

-- adapters: the latest of each adapter, for whatever model
select distinct on (m.name) m.name, m.version, m.manifest, m.signature, m.certificate
  from atoll.model m where m.name like '%:%' order by m.name, m.added_at desc, m.version;

-- files: the files that any manifest names
select array_agg(distinct f->>'sha256') from atoll.model m, jsonb_array_elements(m.manifest->'variants') v, jsonb_array_elements(v->'files') f;

-- place: what a place is called, as people name it
select atoll.place_of(%s) as place;

-- add: a manifest that this node has signed
select atoll.add_model(%(manifest)s, %(version)s, %(signature)s, %(certificate)s);

-- want: that a model be somewhere, or, without a version, that it be not
select atoll.want_model(%(model)s, %(version)s, %(place)s, %(variant)s, %(keep)s, %(options)s) as place;

-- remove: a version of a model, or all of them
select atoll.remove_model(%s, %s) as removed;

-- listing: every version, where it is wanted, and how it is here
select m.name, m.version, m.manifest, n.name as added_by, m.added_at, s.state, s.variant, s.problem, s.memory_bytes, s.split,
       coalesce(m.version = (select w.version from atoll.wanted_models() w where w.model = m.name), s.state is not null) as is_here,
       (select coalesce(array_agg(coalesce(dn.name, d.place) order by d.place), '{}') from atoll.desired_model d
          left join atoll.node dn on d.place = 'node:' || dn.number where d.model = m.name and d.version = m.version) as places
  from atoll.model m left join atoll.node n on n.number = m.added_by
  left join atoll.model_state s on s.model = m.name and s.version = m.version
 order by m.name, m.added_at desc;

-- states: how all models are on this node
select model, version, variant, state, problem, memory_bytes, split from atoll.model_state order by model;

-- say_state: how a model is on this node
insert into atoll.model_state (model, version, variant, state, problem, memory_bytes, split)
values (%(model)s, %(version)s, %(variant)s, %(state)s, %(problem)s, %(memory_bytes)s, %(split)s)
on conflict (model) do update set version = excluded.version, variant = excluded.variant, state = excluded.state,
       problem = excluded.problem, memory_bytes = excluded.memory_bytes, split = excluded.split, said_at = clock_timestamp();

-- forget_states: models that this node is not to have any more
delete from atoll.model_state where model <> all (%s);
