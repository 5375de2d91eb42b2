-- make_tables: what a shop would have: a stock that is counted, orders that are added, readings that never change
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
create table readings (
    site    text   not null,
    n       bigint not null,
    celsius numeric(4, 1) not null,
    primary key (site, n)
);

-- share_stock: quantities are counted, tags are a set, the later price stays
select atoll.share('stock', '{"qty": "counter", "tags": "set"}');

-- share_orders: rows of their own on every site
select atoll.share('orders');

-- share_readings: facts, added and never changed
select atoll.share('readings', kind => 'append');

-- add_item: something to sell
insert into stock (item, qty, price) values (%s, %s, %s);

-- tables_here: how many of the tables have come here
select count(*) from atoll.local_table where name in ('public.stock', 'public.orders', 'public.readings') and problem is null;

-- items_here: how many items have come here
select count(*) from stock;

-- price: what a buyer reads first
select price from stock where item = %s;

-- add_order: what is sold
insert into orders (site, item, qty, paid) values (%s, %s, %s, %s);

-- take: out of the stock
update stock set qty = qty - %s where item = %s;

-- measure: one more reading
insert into readings (site, n, celsius) values (%s, %s, %s);

-- set_price: the later of two prices stays
update stock set price = %s where item = %s;

-- add_tag: tags of all sites come together
update stock set tags = tags || to_jsonb(%s::text) where item = %s and not tags ? %s;

-- mesh_stands: whether this node has all links and all that was here before it
select (select seeded_at is not null from atoll.self)
       and (select count(*) = %s from atoll.link_state where state = 'up' and receiving = 'yes');

-- links: the links of this node, as its process notes them every few seconds
select n.name, l.state, l.receiving, l.rtt_ms from atoll.link_state l join atoll.node n on n.number = l.peer;

-- orders_by_site: whose orders are here
select site, count(*) from orders group by site;

-- readings_by_site: how far the readings of each site have come here
select site, count(*), max(n) from readings group by site;

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
