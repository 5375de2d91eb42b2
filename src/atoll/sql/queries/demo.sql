-- make_tables: what everybody shares: a stock that is counted, orders, and what the models decided
create table stock (
    item  text          primary key,
    qty   bigint        not null,
    price numeric(8, 2) not null,
    tags  jsonb         not null default '[]'
);
create table orders (
    id   bigint  primary key default atoll.id(),
    site text    not null,
    item text    not null,
    qty  integer not null,
    paid numeric(10, 2) not null
);
create table decision (
    id            bigint      primary key,
    decided_by    integer     not null,
    about         text        not null,
    label         text        not null,
    score         real,
    took_ms       real        not null,
    model         text        not null,
    model_version text        not null,
    scored_at     timestamptz not null
);

-- share_stock: quantities are counted, tags are a set, the later price stays
select atoll.share('stock', '{"qty": "counter", "tags": "set"}');

-- share_orders: rows of their own on every site
select atoll.share('orders');

-- share_decision: what models decided travels
select atoll.share('decision');

-- make_raw_tables: what sensors, cameras and people say; truth is what the demo knows and the models do not
create table vibration (
    id         bigint      primary key default atoll.id(),
    written_at timestamptz not null default clock_timestamp(),
    machine    text        not null,
    celsius    real        not null,
    g          real[]      not null check (cardinality(g) = 512),
    truth      text        not null
);
create table shelf (
    id         bigint      primary key default atoll.id(),
    written_at timestamptz not null default clock_timestamp(),
    crate      text        not null,
    photo      bytea       not null,
    truth      text        not null
);
create table ticket (
    id         bigint      primary key default atoll.id(),
    written_at timestamptz not null default clock_timestamp(),
    customer   text        not null,
    body       text        not null,
    truth      text        not null
);
create table article (
    title text primary key,
    body  text not null
);

-- share_vibration: the table is on every node, its rows only where they were written
select atoll.share('vibration', kind => 'append', scope => 'node');

-- share_shelf: likewise
select atoll.share('shelf', kind => 'append', scope => 'node');

-- share_ticket: likewise
select atoll.share('ticket', kind => 'append', scope => 'node');

-- share_article: likewise
select atoll.share('article', scope => 'node');

-- search_article: titles and bodies are searched
select atoll.searchable('article', text => '{title,body}', language => 'english');

-- roll_up_vibration: what the windows of each machine come to, in ten seconds
select atoll.rollup('vibration', bucket => '10 s', at => 'written_at', by => '{machine}', measures => '{"celsius": ["avg", "p95"]}', name => 'vibration_10s');

-- decide_vibration: the window of a machine becomes the fault that it has
select atoll.add_pipeline('vibration', 'vibration', 'r.g', 'bearing', 'decision', columns => $$
    r.id, atoll.me() as decided_by, r.machine as about, result->>'label' as label, (result->>'score')::real as score,
    extract(epoch from clock_timestamp() - r.written_at) * 1000 as took_ms $$);

-- decide_shelf: the photo of a tag becomes the digit on it; ink is dark on a photo and bright to the model
select atoll.add_pipeline('shelf', 'shelf', 'r.photo', 'digits', 'decision', kind => 'image', options => '{"mean": [1], "std": [-1]}', columns => $$
    r.id, atoll.me() as decided_by, r.crate as about, result->>'label' as label, (result->>'score')::real as score,
    extract(epoch from clock_timestamp() - r.written_at) * 1000 as took_ms $$);

-- decide_ticket: a question becomes an answer
select atoll.add_pipeline('ticket', 'ticket', 'r.body', 'pebble', 'decision', kind => 'text', options => '{"max_tokens": 90, "temperature": 0}', columns => $$
    r.id, atoll.me() as decided_by, r.customer as about, result->>'text' as label,
    extract(epoch from clock_timestamp() - r.written_at) * 1000 as took_ms $$);

-- listen_vibration: hears of each decision once it is committed
listen atoll_pipeline_vibration;

-- listen_shelf: likewise
listen atoll_pipeline_shelf;

-- listen_ticket: likewise
listen atoll_pipeline_ticket;

-- add_vibration: a window of 512 samples
insert into vibration (machine, celsius, g, truth) values (%s, %s, %s::real[], %s) returning id;

-- add_shelf: a photo of a tag
insert into shelf (crate, photo, truth) values (%s, %s, %s) returning id;

-- add_ticket: a question
insert into ticket (customer, body, truth) values (%s, %s, %s) returning id;

-- add_article: one document of the help desk
insert into article (title, body) values (%s, %s);

-- add_item: something to sell
insert into stock (item, qty, price) values (%s, %s, %s);

-- tables_here: how many of the tables have come here, and pipelines and rollups with them
select (select count(*) from atoll.local_table where problem is null
           and name in ('public.stock', 'public.orders', 'public.decision', 'public.vibration', 'public.shelf', 'public.ticket', 'public.article')),
       (select count(*) from atoll.pipelines where state = 'running'),
       (select count(*) from atoll.rollups where state = 'kept');

-- items_here: how many items have come here
select count(*) from stock;

-- price: what a buyer reads first
select price from stock where item = %s;

-- add_order: what is sold
insert into orders (site, item, qty, paid) values (%s, %s, %s, %s);

-- take: out of the stock
update stock set qty = qty - %s where item = %s;

-- set_price: the later of two prices stays
update stock set price = %s where item = %s;

-- add_tag: tags of all sites come together
update stock set tags = tags || to_jsonb(%s::text) where item = %s and not tags ? %s;

-- mesh_stands: whether this node has all links and all that was here before it
select (select seeded_at is not null from atoll.self)
       and (select count(*) = %s from atoll.link_state where state = 'up' and receiving = 'yes');

-- orders_by_site: whose orders are here
select site, count(*) from orders group by site;

-- decisions_by_node: whose decisions are here
select n.name, count(*) from decision d join atoll.node n on n.number = d.decided_by group by n.name;

-- new_vibration: how many rows came after one that is known, how large they are, and the last of them
select count(*), coalesce(sum(pg_column_size(r.*)), 0)::bigint, max(r.id) from vibration r where r.id > %s;

-- new_shelf: likewise
select count(*), coalesce(sum(pg_column_size(r.*)), 0)::bigint, max(r.id) from shelf r where r.id > %s;

-- new_ticket: likewise
select count(*), coalesce(sum(pg_column_size(r.*)), 0)::bigint, max(r.id) from ticket r where r.id > %s;

-- latest: what this node decided last
select d.about, d.label, d.score, d.model, d.took_ms / 1000 from decision d where d.decided_by = atoll.me() order by d.id desc limit 5;

-- right_vibration: how many decisions say what is true
select count(*) from decision d join vibration r using (id) where d.label = r.truth;

-- right_shelf: likewise
select count(*) from decision d join shelf r using (id) where d.label = r.truth;

-- right_ticket: how many answers have in them what the document says
select count(*) from decision d join ticket r using (id) where position(r.truth in d.label) > 0;

-- raw_here: rows of each site's raw table on this node
select (select count(*) from vibration), (select count(*) from shelf), (select count(*) from ticket);

-- decision_bytes: how large a decision is
select coalesce(avg(pg_column_size(d.*)), 0)::integer from decision d;

-- rolled_up: windows that the rollup counts, seen from here
select coalesce(sum(n), 0)::bigint from vibration_10s;

-- pipeline_problem: why this node does not decide
select string_agg(format('%s: %s', name, problem), '; ') from atoll.pipelines where problem is not null;

-- item: one row of the stock, as it is here
select qty, price, (select coalesce(string_agg(tag, ', ' order by tag), '') from jsonb_array_elements_text(tags) tag)
  from stock where item = %s;

-- stock: what is left of each item here
select item, qty from stock order by item;

-- conflicts: what lost against what, after the ones that are known
select c.id, c.key ->> 'item' as item, c."column", c.kind, c.lost_value, c.lost_by, c.won_value, c.won_by,
       extract(epoch from c.won_at - c.lost_at)::float8 as later_by
  from atoll.conflicts c where c.id > %s and c."table" = 'public.stock' order by c.id limit 200;

-- receipt: a table's rows in one line
select atoll.receipt(%s);
