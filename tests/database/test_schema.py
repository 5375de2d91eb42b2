"""Changes of a shared table's shape: made on one node, the same on all, whatever arrives first."""

from __future__ import annotations

import threading

import psycopg
import pytest

from support.fix_nodes import Change, Node, Nodes

pytestmark = pytest.mark.slow

TABLE = "create table item (id bigint primary key, name text, price numeric)"
COLUMNS = """
    select string_agg(format('%%s %%s%%s%%s', a.attname, format_type(a.atttypid, a.atttypmod), case when a.attnotnull then ' not null' end,
                             ' = ' || pg_get_expr(d.adbin, d.adrelid)), ', ' order by a.attname)
      from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped
"""
RULES = """
    select string_agg(word, '; ' order by word) from (
        select conname || ' ' || pg_get_constraintdef(oid) as word from pg_constraint where conrelid = %s::regclass and contype in ('u', 'c', 'f')
        union all select pg_get_indexdef(indexrelid) from pg_index where indrelid = %s::regclass) w
"""


def columns(node: Node, table: str = "item") -> str:
    return str(node.value(COLUMNS, table))


def same_shape(nodes: Nodes, table: str = "item") -> str:
    shapes = [columns(node, table) for node in nodes]
    assert shapes == [shapes[0]] * len(nodes)
    rules = [node.value(RULES, table, table) for node in nodes]
    assert rules == [rules[0]] * len(nodes)
    return shapes[0]


def known(node: Node, table: str) -> list[tuple[object, ...]]:
    """The states; without what dead rows keep of columns that two nodes had added with different types."""
    contested = {
        item.removeprefix("c:")
        for (item,) in node.owner(
            "select item from atoll.schema_item where tbl = %s and op ? 'contested'", f"public.{table}"
        )
    }
    states = node.states(f"public.{table}")
    for *_, state in states:
        if state.get("d", 0) > max([state.get("b", 0), *map(int, state["t"].values())]):
            state["v"] = {name: value for name, value in state["v"].items() if name not in contested}
    return states


def same(nodes: Nodes, table: str = "item") -> list[tuple[object, ...]]:
    """Rows by column names in order, as nodes may have them in another order."""
    names = ", ".join(
        name
        for (name,) in nodes[0].run(
            "select quote_ident(attname) from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " order by attname <> 'id', attname",
            table,
        )
    )
    found = [node.run(f"select {names} from {table} order by 1") for node in nodes]
    for node, rows in zip(nodes, found, strict=True):
        assert rows == found[0], f"node {node.number} differs"
    states = [known(node, table) for node in nodes]
    for node, state in zip(nodes, states, strict=True):
        assert state == states[0], f"node {node.number} differs in states"
    return found[0]


def forced(node: Node, statement: str) -> None:
    node.run("select from atoll.migrate(%s, true)", statement)


def started(nodes: Nodes, table: str = TABLE, merge: str = "{}") -> None:
    nodes[0].run(table)
    nodes[0].share("item", merge)
    nodes.sync()


def settle(nodes: Nodes) -> None:
    """Everything arrives; what waited is tried again."""
    nodes.sync()
    for node in nodes:
        node.owner("select atoll.apply_schema(true)")
        node.retry()
    nodes.sync()


def test_a_column_added_with_plain_sql_reaches_all_nodes_before_the_rows_that_use_it(nodes: Nodes) -> None:
    here, there = nodes
    started(nodes)
    here.run("insert into item values (1, 'rope', 4.5)")
    nodes.sync()
    here.run("alter table item add column colour text default 'red' not null, add column made date")
    here.run("insert into item values (2, 'buoy', 9, 'blue', '2026-01-01')")
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    there.run("update item set colour = 'green' where id = 1")
    nodes.sync()
    assert same_shape(nodes).startswith("colour text not null = 'red'::text, id bigint")
    assert [row[1] for row in same(nodes)] == ["green", "blue"]


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("alter table item add column tags jsonb default '[1]'", "tags jsonb = '[1]'::jsonb"),
        ("alter table item add column at timestamptz default now()", "at timestamp with time zone = now()"),
        (
            "alter table item add column a text[] default '{x,y}' not null",
            "a text[] not null = '{x,y}'::text[]",
        ),
        ("alter table item add column n int generated always as (id * 2) stored", "n integer = (id * 2)"),
        ("alter table item drop column price", "id bigint not null, name text"),
        ("alter table item rename column price to cost", "cost numeric"),
        ("alter table item alter column price type text", "price text"),
        ("alter table item alter column price type text using 'worth ' || price", "price text"),
        ("alter table item alter column price set default 3", "price numeric = 3"),
        ("alter table item alter column price set not null", "price numeric not null"),
        ("alter table item add check (price >= 0)", "price numeric"),
        ("alter table item add unique (name)", "name text"),
        ("create index on item (price)", "price numeric"),
        ("create unique index by_name on item (lower(name)) where price > 0", "name text"),
    ],
)
def test_what_can_be_changed_is_changed_everywhere_with_the_rows_in_it(
    nodes: Nodes, statement: str, wanted: str
) -> None:
    here, there = nodes
    started(nodes)
    here.run("insert into item values (1, 'rope', 4.5), (2, 'buoy', 9)")
    there.run("insert into item values (3, 'net', 1)")
    nodes.sync()
    forced(here, statement)
    nodes.sync()
    here.run("insert into item (id, name) values (4, 'oar')" if "set not null" not in statement else "select")
    there.run("update item set name = 'nets' where id = 3")
    there.run("delete from item where id = 2")
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert wanted in same_shape(nodes)
    same(nodes)


def test_an_index_that_is_built_and_dropped_concurrently_is_built_and_dropped_everywhere(
    nodes: Nodes,
) -> None:
    here, there = nodes
    started(nodes)
    here.run("insert into item values (1, 'rope', 4.5)")
    indexes = "select indexname from pg_indexes where tablename = 'item' order by 1"
    here.run("create index concurrently by_price on item (price)")
    there.run("create index concurrently by_name on item (name)")
    nodes.sync()
    for node in nodes:
        assert node.run(indexes) == [("by_name",), ("by_price",), ("item_pkey",)]
    there.run("drop index concurrently by_price")
    with pytest.raises(psycopg.DatabaseError, match="not every node"):
        here.run("create unique index concurrently once on item (name)")
    assert here.run("select indisvalid from pg_index where indexrelid = 'once'::regclass") == [(False,)]
    here.run("drop index concurrently once")
    nodes.sync()
    for node in nodes:
        assert node.run(indexes) == [("by_name",), ("item_pkey",)]
    assert [node.parked() for node in nodes] == [[], []]
    same(nodes)


@pytest.mark.parametrize(
    ("statement", "slug"),
    [
        ("alter table item rename to thing", "table-renamed"),
        ("alter table item set schema atoll_test", "table-renamed"),
        ("alter table item rename column id to nr", "key-reshaped"),
        ("alter table item alter column id type text", "key-reshaped"),
        ("alter table item drop constraint item_pkey, add primary key (id, name)", "table-shape"),
        ("alter table item add column u uuid default gen_random_uuid()", "default-volatile"),
        ("alter table item add column s serial", "default-volatile"),
        ("alter table item add column i int generated by default as identity", "default-volatile"),
        ("alter table item add exclude using btree (name with =)", "exclusion"),
        ("alter table item add constraint u unique (name) deferrable", "constraint-unsupported"),
        ("alter table item alter column n type bigint", "policy-reshaped"),
        ("alter table item drop column price", "members-not-ready"),
        ("alter table item alter column price type text", "members-not-ready"),
        ("alter table item add unique (name)", "members-not-ready"),
        ("alter table item alter column name set not null", "members-not-ready"),
    ],
)
def test_what_cannot_be_changed_is_refused_and_says_why(node: Node, statement: str, slug: str) -> None:
    node.run("create table item (id bigint primary key, name text, price numeric, n int)")
    node.run("create schema atoll_test")
    node.share("item", '{"n": "counter"}')
    with pytest.raises(psycopg.Error) as refused:
        node.run(statement)
    assert refused.value.diag.constraint_name == slug
    node.run("insert into item values (1, 'still there', 1)")
    assert node.value("select count(*) from atoll.schema_change") == 0


def test_an_older_node_s_rows_get_what_they_did_not_know_of(three_nodes: Nodes) -> None:
    a, b, c = three_nodes
    started(three_nodes)
    a.run("insert into item values (1, 'rope', 4.5)")
    three_nodes.sync()
    a.run("alter table item add column colour text default 'red'")
    a.run("update item set colour = 'blue' where id = 1")
    shaped = a.changes()
    b.run("insert into item values (2, 'buoy', 1)")
    b.run("delete from item where id = 1")
    b.run("insert into item values (1, 'other rope', 2), (3, 'net', 3)")
    older = b.changes()
    c.receive(shaped)
    c.receive(older)
    a.receive(older)
    assert c.parked() == a.parked() == []
    b.receive([change for change in shaped if change.tbl == "public.item"])
    assert [code for code, _ in b.parked()] == ["column-unknown"]
    b.receive([change for change in shaped if change.tbl != "public.item"])
    assert b.parked() == [], "what waited is tried as soon as the table has changed"
    assert [row[1] for row in same(three_nodes)] == ["red", "red", "red"]


def test_an_append_table_takes_columns_too(nodes: Nodes) -> None:
    here, there = nodes
    here.run("create table reading (id bigint primary key, celsius float8)")
    here.share("reading", kind="append")
    nodes.sync()
    here.run("alter table reading add column place text default 'bow', add column also int")
    there.run("insert into reading values (1, 20.5), (2, 21)")
    nodes.sync()
    there.run("insert into reading (id, celsius, place) values (3, 22, 'stern')")
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert nodes.same("reading") == [
        ("1", "20.5", "bow", None),
        ("2", "21", "bow", None),
        ("3", "22", "stern", None),
    ]


def test_a_renamed_column_keeps_its_values_stamps_and_late_writes(nodes: Nodes) -> None:
    here, there = nodes
    started(
        nodes,
        "create table item (id bigint primary key, n int, name text, tags jsonb)",
        '{"n": "counter", "tags": "set"}',
    )
    here.run("insert into item values (1, 10, 'a', '[1]'), (2, 20, 'b', '[2]')")
    nodes.sync()
    there.run("update item set n = n + 1 where id = 1")
    there.run("delete from item where id = 2")
    nodes.sync()
    here.run("alter table item rename column n to amount")
    here.run("alter table item rename column tags to labels")
    here.run("update item set amount = amount + 5, labels = labels || '[7]' where id = 1")
    there.run("update item set n = n + 3, tags = tags || '[8]' where id = 1")
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert same(nodes) == [(1, 19, [1, 7, 8], "a")]


def test_two_nodes_add_columns_at_once(three_nodes: Nodes) -> None:
    a, b, _ = three_nodes
    started(three_nodes)
    a.run("insert into item values (1, 'rope', 4.5)")
    three_nodes.sync()
    a.run("alter table item add column x int default 1")
    b.run("alter table item add column w text default 'w'")
    b.run("alter table item add column y date")
    a.run("insert into item (id, x) values (2, 5)")
    b.run("insert into item (id, w) values (3, 'v'), (4, 'u')")
    settle(three_nodes)
    assert [node.parked() for node in three_nodes] == [[], [], []]
    same_shape(three_nodes)
    assert [row[3:] for row in same(three_nodes)] == [
        ("w", 1, None),
        ("w", 5, None),
        ("v", 1, None),
        ("u", 1, None),
    ]


def test_of_two_columns_of_one_name_the_later_wins_and_the_other_is_listed(three_nodes: Nodes) -> None:
    a, b, _ = three_nodes
    started(three_nodes)
    for milliseconds, node in enumerate(three_nodes):
        node.clock(3 * 10**11 + milliseconds)
    a.run("alter table item add column x int default 1")
    b.run("alter table item add column x text default 'one'")
    a.run("insert into item (id, x) values (1, 11)")
    b.run("insert into item (id, x) values (2, '22')")
    settle(three_nodes)
    assert [node.parked() for node in three_nodes] == [[], [], []]
    assert "x text = 'one'::text" in same_shape(three_nodes)
    assert [row[3] for row in same(three_nodes)] == ["11", "22"]
    for node in three_nodes:
        listed = node.conflicts("public.item")
        assert [(kind, lost) for kind, _, _, lost, _ in listed] == [
            ("schema", "add column x integer default 1")
        ]


def test_a_step_that_rows_here_forbid_waits_with_its_reason(nodes: Nodes) -> None:
    here, there = nodes
    started(nodes)
    here.run("insert into item values (1, 'rope', 1)")
    nodes.sync()
    there.run("update item set price = null where id = 1")
    forced(here, "alter table item alter column price set not null")
    here.run("insert into item values (2, 'buoy', 2)")
    nodes.sync()
    assert "null" in there.owner("select problem from atoll.schema_done where problem is not null")[0][0]
    assert there.value("select count(*) from item") == 2
    there.run("update item set price = 3 where id = 1")
    settle(nodes)
    assert there.owner("select count(*) from atoll.schema_done where problem is not null") == [(0,)]
    assert [node.parked() for node in nodes] == [[], []]
    assert "price numeric not null" in same_shape(nodes)
    same(nodes)


def test_a_new_node_gets_the_table_as_it_is_now(three_nodes: Nodes) -> None:
    a, b, c = three_nodes
    a.run(TABLE)
    a.run("select atoll.share('item')")
    a.run("insert into item values (1, 'rope', 1), (2, 'buoy', 2)")
    a.run("alter table item add column x int default 7")
    forced(a, "alter table item drop column price")
    a.run("alter table item rename column name to title")
    a.run("update item set title = 'ropes' where id = 1")
    b.receive(a.changes())
    for peer in (2, 3):
        b.owner(
            "insert into atoll.progress (peer, missed) values (%s, true) on conflict (peer) do update set missed = true",
            peer,
        )
    b.apply.execute("set session_replication_role = origin")
    b.apply.execute("call atoll.seed(3)")
    b.apply.execute("set session_replication_role = replica")
    c.receive([change for change in b.changes() if change.target == 3])
    assert c.parked() == []
    same_shape(three_nodes)
    assert same(three_nodes) == [(1, "ropes", 7), (2, "buoy", 7)]


def test_migrate_says_what_the_others_will_do(nodes: Nodes) -> None:
    here, there = nodes
    started(nodes)
    found = here.run(
        "select * from atoll.migrate('alter table item add column x int default 2; alter table item add column y text;"
        " create table elsewhere (id int)')"
    )
    assert found == [("public.item", "add column x integer default 2"), ("public.item", "add column y text")]
    nodes.sync()
    assert "x integer = 2" in same_shape(nodes)
    assert there.value("select to_regclass('elsewhere')") is None


def test_what_arrives_runs_with_the_rights_of_the_table_s_owner(nodes: Nodes) -> None:
    here, there = nodes
    started(nodes)
    here.owner(
        "insert into atoll.schema_change (stamp, tbl, ops) values (atoll.now(), 'public.item',"
        ' \'[{"do": "add", "column": "x", "type": "int; alter role app superuser", "not_null": false}]\')'
    )
    nodes.sync()
    assert there.owner("select rolsuper from pg_roles where rolname = 'app'") == [(False,)]
    assert (
        "permission denied"
        in there.owner("select problem from atoll.schema_done where problem is not null")[0][0]
    )


def test_dropped_columns_in_late_changes_are_ignored(nodes: Nodes) -> None:
    here, there = nodes
    started(nodes)
    there.run("insert into item values (1, 'late', 1)")
    there.run("update item set price = 5, name = 'later' where id = 1")
    there.run("update item set price = 6 where id = 1")
    late: list[Change] = there.changes()
    forced(here, "alter table item drop column price")
    here.receive(late)
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert same(nodes) == [(1, "later")]


def test_what_waits_for_a_migration_to_end_is_merged_into_the_new_shape(nodes: Nodes) -> None:
    here, there = nodes
    started(nodes)
    here.run("insert into item values (1, 'rope', 5), (2, 'sail', 7)")
    nodes.sync()
    there.run("delete from item where id = 1")
    there.run("update item set price = 8 where id = 2")
    arriving = [change for change in there.changes() if change.tbl == "public.item"]
    waiting = threading.Thread(target=here.receive, args=(arriving,))
    with here.app.transaction():
        here.run("alter table item add column stored text default 'low'")
        waiting.start()
        with psycopg.connect(here.database.conninfo(), autocommit=True) as watch:
            while not watch.execute("select true from pg_locks where not granted").fetchall():
                assert waiting.is_alive()
    waiting.join(60)
    settle(nodes)
    assert same(nodes) == [(2, "sail", 8, "low")]
