"""Whatever statement an application uses, on whatever shape of table, the other node has the same rows after it."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from support.fix_nodes import Nodes

pytestmark = pytest.mark.slow


def ends_same(nodes: Nodes, table: str, order: str = "1") -> list[tuple[object, ...]]:
    nodes.sync()
    for node in nodes:
        assert node.parked() == []
    return nodes.same(f"public.{table}", order)


def test_copy_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    with a.app.cursor() as cursor, cursor.copy("copy crop from stdin") as copy:
        for number in range(1200):
            copy.write_row((number, f"crop {number}"))
    assert len(ends_same(nodes, "crop")) == 1200
    assert {change.n for change in a.changes()} == set()


def test_a_statement_of_many_rows_goes_in_chunks(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.changes()
    a.run("insert into crop select i, 'x' from generate_series(1, 1200) i")
    assert [change.n for change in a.changes()] == [500, 500, 200]
    a.run("update crop set name = repeat('y', 3000)")
    changes = a.changes()
    assert sum(change.n for change in changes) == 1200
    assert all(change.n <= 500 for change in changes)
    assert all(sum(len(part) for part in change.vals) < 1_600_000 for change in changes)


def test_on_conflict_do_nothing_tells_only_of_rows_that_it_made(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.run("insert into crop values (1, 'a')")
    nodes.sync()
    a.run("insert into crop values (1, 'no'), (2, 'b') on conflict do nothing")
    a.run("insert into crop values (1, 'no') on conflict do nothing")
    assert [(change.op, change.n) for change in a.changes()] == [("I", 1)]
    b.run("insert into crop values (2, 'b') on conflict do nothing")
    nodes.sync()
    assert a.rows("crop") == [("1", "a"), ("2", "b")]


def test_on_conflict_do_update_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text, n int not null default 0)")
    a.share("crop", '{"n": "counter"}')
    for _ in range(2):
        a.run(
            "insert into crop as c values (1, 'a', 1), (2, 'b', 1) on conflict (id) do update set n = c.n + 1, name = excluded.name || '!'"
        )
        a.run("insert into crop as c values (1, 'a', 1) on conflict (id) do update set n = c.n + 1")
    assert ends_same(nodes, "crop") == [("1", "a!", "4"), ("2", "b!", "2")]


def test_merge_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.run("insert into crop select i, 'old' from generate_series(1, 4) i")
    nodes.sync()
    a.run(
        "merge into crop c using (select i from generate_series(3, 6) i) s on c.id = s.i"
        " when matched and s.i = 3 then delete when matched then update set name = 'new'"
        " when not matched then insert values (s.i, 'made')"
    )
    assert ends_same(nodes, "crop") == [
        ("1", "old"),
        ("2", "old"),
        ("4", "new"),
        ("5", "made"),
        ("6", "made"),
    ]


def test_a_statement_that_changes_a_table_in_three_ways_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.run("insert into crop select i, 'old' from generate_series(1, 5) i")
    nodes.sync()
    a.run(
        "with gone as (delete from crop where id = 1 returning id),"
        " changed as (update crop set name = 'new' where id in (2, 3) returning id),"
        " again as (update crop set name = 'newer' where id = 4 returning id)"
        " insert into crop select id + 10, 'made' from gone union all select id + 10, 'made' from changed"
    )
    assert len(ends_same(nodes, "crop")) == 7


def test_keys_that_all_move_by_one_are_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.run("insert into crop select i, 'row ' || i from generate_series(700, 1, -1) i")
    nodes.sync()
    a.run("update crop set id = id + 1")
    assert ends_same(nodes, "crop", "id")[0] in [("2", "row 1"), ("10", "row 9"), ("100", "row 99")]
    a.run("update crop set id = -id where id = 5")
    a.run("update crop set id = 5, name = 'moved and changed' where id = -5")
    ends_same(nodes, "crop")
    assert a.value("select name from crop where id = 5") == "moved and changed"


def test_keys_that_two_rows_exchange_are_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int, part int, name text, n int, primary key (id, part))")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop values (1, 1, 'a', 1), (2, 1, 'b', 2), (3, 1, 'c', 3)")
    nodes.sync()
    with a.app.transaction():
        a.run("update crop set id = 9 where id = 1")
        a.run("update crop set id = 1 where id = 2")
        a.run("update crop set id = 2 where id = 9")
    assert ends_same(nodes, "crop") == [("1", "1", "b", "2"), ("2", "1", "a", "1"), ("3", "1", "c", "3")]


def test_truncate_is_captured_and_rows_may_come_again(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, name text, n int)")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop select i, 'x', i from generate_series(1, 700) i")
    nodes.sync()
    b.run("truncate crop")
    assert ends_same(nodes, "crop") == []
    a.run("insert into crop values (1, 'again', 5), (2, 'again', 5)")
    b.run("insert into crop values (3, 'again', 5)")
    assert ends_same(nodes, "crop") == [("1", "again", "5"), ("2", "again", "5"), ("3", "again", "5")]


def test_truncate_cascade_is_captured_on_every_table(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table field (id int primary key)")
    a.run("create table crop (id int primary key, field int references field)")
    a.share("field")
    a.share("crop")
    a.run("insert into field values (1), (2)")
    a.run("insert into crop values (1, 1), (2, 2)")
    nodes.sync()
    a.run("truncate field cascade")
    assert (ends_same(nodes, "field"), ends_same(nodes, "crop")) == ([], [])
    assert b.rows("crop", "1") == []


def test_cascading_deletes_are_captured(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table field (id int primary key)")
    a.run("create table crop (id int primary key, field int references field on delete cascade)")
    a.run(
        "create table leaf (id int primary key, crop int references crop on delete cascade on update cascade)"
    )
    for table in ("field", "crop", "leaf"):
        a.share(table)
    a.run("insert into field values (1), (2), (3)")
    a.run("insert into crop select i, i % 3 + 1 from generate_series(1, 30) i")
    a.run("insert into leaf select i, i % 30 + 1 from generate_series(1, 90) i")
    nodes.sync()
    a.run("delete from field where id in (1, 2)")
    assert len(ends_same(nodes, "leaf")) == 30
    a.run("delete from field where id = 3")
    for table in ("field", "crop", "leaf"):
        assert ends_same(nodes, table) == []
    assert b.rows("leaf", "1") == []


def test_a_row_that_one_statement_changes_twice_through_foreign_keys_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table field (id int primary key)")
    a.run(
        "create table crop (id int primary key, one int references field on delete set null on update cascade,"
        " two int references field on delete set null on update cascade, n int)"
    )
    a.share("field")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into field values (1), (2), (3)")
    a.run("insert into crop values (1, 1, 1, 0), (2, 1, 2, 0), (3, 3, 3, 0)")
    nodes.sync()
    a.run("update field set id = id + 10 where id < 3")
    assert ends_same(nodes, "crop") == [("1", "11", "11", "0"), ("2", "11", "12", "0"), ("3", "3", "3", "0")]
    a.run("delete from field where id > 10")
    assert ends_same(nodes, "crop") == [("1", None, None, "0"), ("2", None, None, "0"), ("3", "3", "3", "0")]
    a.run("delete from field")
    assert ends_same(nodes, "crop") == [
        ("1", None, None, "0"),
        ("2", None, None, "0"),
        ("3", None, None, "0"),
    ]


def test_keys_that_cascade_in_a_chain_are_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table field (id int primary key)")
    a.run("create table crop (id int primary key, field int references field on update cascade)")
    a.share("field")
    a.share("crop")
    a.run("insert into field values (3), (2), (1)")
    a.run("insert into crop values (1, 1), (2, 2), (3, 3)")
    nodes.sync()
    a.run("update field set id = id + 1")
    ends_same(nodes, "field")
    ends_same(nodes, "crop")


def test_a_row_that_a_trigger_of_the_application_changes_again_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text, version int)")
    a.run(
        "create function touch() returns trigger language plpgsql as $$ begin"
        " update crop set version = coalesce(version, 0) + 1 where id = new.id and coalesce(version, 0) < 2; return null; end $$"
    )
    a.run("create trigger touch after insert or update on crop for each row execute function touch()")
    a.share("crop")
    a.run("insert into crop values (1, 'a'), (2, 'b')")
    a.run("update crop set name = 'c', version = 0")
    assert ends_same(nodes, "crop") == [("1", "c", "2"), ("2", "c", "2")]
    a.run("update crop set name = 'd', version = 0 where id = 1")
    assert ends_same(nodes, "crop") == [("1", "d", "2"), ("2", "c", "2")]


def test_every_policy_holds_where_a_trigger_writes_the_row_again(nodes: Nodes) -> None:
    a, b = nodes
    a.run(
        "create table crop (id int primary key, n int, hi int, tags jsonb, doc jsonb, born text, email text unique)"
    )
    a.run(
        "create function again() returns trigger language plpgsql as $$ begin"
        " if pg_trigger_depth() < 2 then"
        "  update crop set n = n + 10, hi = hi + 1, tags = tags - 'x' || '[\"y\"]', doc = doc || '{\"b\": 2}', email = email || '!'"
        "   where id = new.id; end if; return null; end $$"
    )
    a.run("create trigger again after insert or update on crop for each row execute function again()")
    a.share("crop", '{"n": "counter", "hi": "max", "tags": "set", "doc": "document", "born": "first"}')
    nodes.sync()
    a.run("insert into crop values (1, 1, 1, '[\"x\"]', '{\"a\": 1}', 'p', 'e1')")
    a.run("insert into crop values (2, 1, 1, '[]', '{}', 'p', 'e2'), (3, 1, 1, '[]', '{}', 'p', 'e3')")
    nodes.sync()
    b.run("update crop set n = n + 5")
    nodes.sync()
    a.run("update crop set n = n + 100, tags = tags || '[\"x\"]', doc = doc || '{\"b\": 1}' where id = 1")
    a.run("update crop set n = n + 100, hi = 50, email = 'f' || id")
    assert [row[:3] for row in ends_same(nodes, "crop")] == [
        ("1", "236", "51"),
        ("2", "126", "51"),
        ("3", "126", "51"),
    ]
    assert a.run("select tags, doc, email from crop where id = 1") == [(["y"], {"a": 1, "b": 2}, "f1!")]


def test_a_row_that_a_trigger_takes_away_or_makes_again_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.run(
        "create function meddle() returns trigger language plpgsql as $$ begin"
        " if tg_op = 'DELETE' then if old.name = 'stay' then insert into crop values (old.id, 'stayed'); end if;"
        " elsif new.name = 'go' then delete from crop where id = new.id;"
        " elsif new.name = 'move' then update crop set id = id + 100, name = 'moved' where id = new.id; end if; return null; end $$"
    )
    a.run(
        "create trigger meddle after insert or update or delete on crop for each row execute function meddle()"
    )
    a.share("crop")
    a.run("insert into crop values (1, 'go')")
    a.run("insert into crop values (2, 'stay'), (3, 'go'), (4, 'move'), (5, 'a'), (6, 'b'), (7, 'stay')")
    assert [row[0] for row in ends_same(nodes, "crop", "id")] == ["104", "2", "5", "6", "7"]
    a.run("update crop set name = 'go' where id = 5")
    a.run("update crop set name = 'move' where id = 6")
    a.run("delete from crop where id = 2")
    ends_same(nodes, "crop", "id")
    a.run("delete from crop")
    assert ends_same(nodes, "crop", "id") == [("7", "stayed")]


def test_odd_names_are_only_names(nodes: Nodes) -> None:
    a = nodes[0]
    a.run('create schema "Odd ""Schema"""')
    names = ["at", "c", "m", "n", "o", "s", "t", "r", "k", "q", "state", "stamp", "order", 'Weird "Name"', "new_rows",
             "policies", "rank", "delta", "key", "value", "changed", "vals", "done", "pair", "it's", "{{keys}}", "tbl", "seq", "origin", "x__y", "%s"]  # fmt: skip
    columns = ", ".join('"' + name.replace('"', '""') + '" int' for name in names)
    table = '"Odd ""Schema"""."Odd.Table it\'s"'
    a.run(
        f'create table {table} ("Key 1" int, "order by" text, {columns.replace("%", "%")}, primary key ("order by", "Key 1"))'
    )
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    a.run(
        "select atoll.share(%s, jsonb_build_object('at', 'counter', 'Weird \"Name\"', 'max', 'it''s', 'first', 'n', 'group:a b', 'm', 'group:a b'))",
        table,
    )
    for key in (1, 2, 3):
        a.run(f'insert into {table} ("Key 1", "order by", at, {quoted[13]}) values ({key}, \'k\', 1, {key})')
    for name in quoted:
        a.app.execute(f'update {table} set {name} = 5 where "Key 1" = 1'.encode())
        a.app.execute(f"update {table} set {name} = 7".encode())
    a.run(f'update {table} set "Key 1" = 9 where "Key 1" = 2')
    a.run(f'delete from {table} where "Key 1" = 3')
    nodes.sync()
    assert [node.parked() for node in nodes] == [[], []]
    assert len(nodes.same(table)) == 2


def test_a_very_long_name_is_only_a_name(nodes: Nodes) -> None:
    a = nodes[0]
    long = "l" * 60
    for table in (long + "_a", long + "_b"):
        a.run(f"create table {table} ({long}_k int primary key, {long}_v int, {long}_w int)")
        a.share(table)
        a.run(f"insert into {table} values (1, 2, 3), (2, 3, 4)")
        a.run(f"update {table} set {long}_v = 5")
        a.run(f"delete from {table} where {long}_k = 1")
    nodes.sync()
    for table in (long + "_a", long + "_b"):
        assert nodes.same(f"public.{table}") == [("2", "5", "4")]


def test_a_table_of_keys_alone_is_captured(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table pair (a int, b text, primary key (a, b))")
    a.share("pair")
    a.run("insert into pair values (1, 'x'), (2, 'y'), (3, 'z')")
    a.run("insert into pair values (4, 'w')")
    nodes.sync()
    b.run("update pair set a = 5 where a = 1")
    b.run("update pair set b = b || '!'")
    b.run("delete from pair where a = 2")
    assert ends_same(nodes, "pair") == [("3", "z!"), ("4", "w!"), ("5", "x!")]


def test_generated_columns_follow_on_each_node(nodes: Nodes, postgres_major: int) -> None:
    a, b = nodes
    virtual = ", v int generated always as (x * 3) virtual" if postgres_major >= 18 else ""
    a.run(
        f"create table crop (id int primary key, x int, s int generated always as (x * 2) stored, n int{virtual})"
    )
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop (id, x, n) values (1, 1, 1)")
    a.run("insert into crop (id, x, n) values (2, 2, 1), (3, 3, 1)")
    nodes.sync()
    b.run("update crop set x = 10, n = n + 1 where id = 1")
    b.run("update crop set x = x + 10, n = n + 1")
    b.run("update crop set x = x + 10")
    b.run("update crop set id = 9 where id = 2")
    rows = ends_same(nodes, "crop")
    assert [row[:4] for row in rows] == [
        ("1", "30", "60", "3"),
        ("3", "23", "46", "2"),
        ("9", "22", "44", "2"),
    ]


def test_an_identity_column_beside_the_key_keeps_its_values(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id text primary key, no int generated by default as identity, s serial)")
    a.share("crop")
    a.run("insert into crop (id) values ('a'), ('b')")
    a.run("insert into crop (id) values ('c')")
    assert ends_same(nodes, "crop") == [("a", "1", "1"), ("b", "2", "2"), ("c", "3", "3")]


def test_a_column_that_was_dropped_before_does_no_harm(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (gone int, id int primary key, also_gone text, x int)")
    a.run("alter table crop drop column gone, drop column also_gone")
    a.share("crop", '{"x": "counter"}')
    a.run("insert into crop values (1, 1), (2, 2)")
    a.run("insert into crop values (3, 3)")
    nodes.sync()
    for node in nodes:
        node.run("update crop set x = x + 1 where id = 1")
        node.run("update crop set x = x + 1")
    a.run("delete from crop where id = 2")
    assert ends_same(nodes, "crop") == [("1", "5"), ("3", "5")]
    assert b.parked() == []


def test_columns_in_another_order_there_are_the_same_columns(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, x int, y text)")
    b.run("create table crop (y text, id int primary key, x int)")
    a.share("crop")
    a.run("insert into crop values (1, 1, 'a'), (2, 2, 'b')")
    nodes.sync()
    b.run("update crop set y = 'c', x = 7 where id = 1")
    b.run("insert into crop values ('d', 3, 3)")
    nodes.sync()
    assert [node.run("select id, x, y from crop order by id") for node in nodes] == [
        [(1, 7, "c"), (2, 2, "b"), (3, 3, "d")]
    ] * 2


PARTED = """
    create table reading (site text, at date, v int, n int, primary key (site, at)) partition by range (at);
    create table reading_24 partition of reading for values from ('2024-01-01') to ('2025-01-01');
    create table reading_25 partition of reading for values from ('2025-01-01') to ('2026-01-01') partition by list (site);
    create table reading_25_a partition of reading_25 for values in ('a');
    create table reading_25_rest partition of reading_25 default;
"""


def test_partitioned_tables_are_captured_whatever_the_statement_names(nodes: Nodes) -> None:
    a, b = nodes
    a.run(PARTED)
    a.share("reading", '{"n": "counter"}')
    a.run(
        "insert into reading select s, d, 1, 1 from unnest(array['a', 'b']) s, unnest(array['2024-05-01', '2025-05-01']::date[]) d"
    )
    nodes.sync()
    b.run("insert into reading_24 values ('c', '2024-06-01', 2, 2)")
    b.run("insert into reading_25_a values ('a', '2025-06-01', 2, 2), ('a', '2025-07-01', 2, 2)")
    b.run("update reading_25 set v = 5, n = n + 1")
    b.run("update reading_24 set v = 6 where site = 'a'")
    b.run("delete from reading_25_rest")
    assert len(ends_same(nodes, "reading", "1, 2")) == 6
    b.run("update reading set at = '2025-09-09', v = 9 where at = '2024-05-01'")  # to other partitions
    b.run("update reading set site = 'z' where site = 'a' and at = '2025-06-01'")
    rows = ends_same(nodes, "reading", "1, 2")
    assert [row[:3] for row in rows] == [
        ("a", "2025-05-01", "5"), ("a", "2025-07-01", "5"), ("a", "2025-09-09", "9"),
        ("b", "2025-09-09", "9"), ("c", "2024-06-01", "2"), ("z", "2025-06-01", "5"),
    ]  # fmt: skip


def test_truncate_of_one_partition_leaves_the_others(nodes: Nodes) -> None:
    a, b = nodes
    a.run(PARTED)
    a.share("reading")
    a.run(
        "insert into reading select s, d, 1, 1 from unnest(array['a', 'b']) s, unnest(array['2024-05-01', '2025-05-01']::date[]) d"
    )
    nodes.sync()
    b.run("truncate reading_25_a")
    assert len(ends_same(nodes, "reading", "1, 2")) == 3
    b.run("truncate reading_25")
    assert len(ends_same(nodes, "reading", "1, 2")) == 2
    a.run("truncate reading")
    assert [change.n for change in a.changes()] == [2]


def test_a_partition_that_is_attached_later_is_captured(nodes: Nodes) -> None:
    a, b = nodes
    a.run(PARTED)
    a.share("reading")
    nodes.sync()
    for node in nodes:
        node.run(
            "create table reading_26 partition of reading for values from ('2026-01-01') to ('2027-01-01')"
        )
        node.owner("select atoll.set_triggers('public.reading')")
    a.run("insert into reading values ('a', '2026-01-01', 1, 1)")
    a.run("update reading_26 set v = 2")
    b.run("insert into reading_26 values ('b', '2026-01-01', 1, 1)")
    assert len(ends_same(nodes, "reading", "1, 2")) == 2


def test_what_is_rolled_back_is_not_told(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.changes()
    with a.app.transaction():
        a.run("insert into crop values (1, 'a')")
        with contextlib.suppress(psycopg.errors.UniqueViolation), a.app.transaction():
            a.run("update crop set name = 'lost'")
            a.run("insert into crop values (1, 'a')")
    assert a.value("select name from crop") == "a"
    assert [change.op for change in a.changes()] == ["I"]


def test_a_statement_that_changes_nothing_is_not_told(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text, n int)")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop values (1, 'a', 1), (2, 'b', 1)")
    a.changes()
    a.run("update crop set name = name, n = n")
    a.run("update crop set name = name where id = 1")
    a.run("update crop set name = 'z' where false")
    a.run("delete from crop where false")
    a.run("insert into crop select 1, 'a', 1 where false")
    assert a.changes() == []


def test_an_update_tells_the_key_and_the_changed_columns_only(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text, photo bytea)")
    a.share("crop")
    a.run("insert into crop values (1, 'a', '\\x00'), (2, 'b', '\\x00')")
    a.changes()
    a.run("update crop set name = 'c' where id = 1")
    a.run("update crop set name = 'd'")
    assert [change.cols for change in a.changes()] == [["id", "name"], ["id", "name"]]


def test_a_row_with_a_large_value_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, photo bytea, name text)")
    a.share("crop")
    a.run(
        "insert into crop select i, convert_to(repeat(md5(i::text), 30000), 'UTF8'), 'x' from generate_series(1, 8) i"
    )
    a.run("update crop set name = 'y'")
    assert len(ends_same(nodes, "crop")) == 8
    assert max(change.n for change in a.changes() or [type("none", (), {"n": 1})]) >= 1


@pytest.mark.slow
def test_a_statement_of_two_hundred_thousand_rows_is_captured(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, name text, n int)")
    a.share("crop")
    a.run("insert into crop select i, 'row ' || i, i from generate_series(1, 200000) i")
    nodes.sync()
    b.run("update crop set n = n + 1")
    nodes.sync()
    a.run("delete from crop where id % 2 = 0")
    nodes.sync()
    digest = "select count(*), md5(string_agg(c::text, ',' order by id)) from crop c"
    assert a.run(digest) == b.run(digest)
    assert a.value("select count(*) from crop") == 100000
    assert b.parked() == []
