"""Whatever statement an application uses, on whatever shape of table, the other node has the same rows after it."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from support.fix_nodes import Nodes

pytestmark = pytest.mark.slow


def test_copy_is_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    with a.app.cursor() as cursor, cursor.copy("copy crop from stdin") as copy:
        for number in range(1200):
            copy.write_row((number, f"crop {number}"))
    assert len(nodes.ends_same("crop")) == 1200
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
    assert nodes.ends_same("crop") == [("1", "a!", "4"), ("2", "b!", "2")]


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
    assert nodes.ends_same("crop") == [
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
    assert len(nodes.ends_same("crop")) == 7


def test_keys_that_all_move_by_one_are_captured(nodes: Nodes) -> None:
    a = nodes[0]
    a.run("create table crop (id int primary key, name text)")
    a.share("crop")
    a.run("insert into crop select i, 'row ' || i from generate_series(700, 1, -1) i")
    nodes.sync()
    a.run("update crop set id = id + 1")
    assert nodes.ends_same("crop", "id")[0] in [("2", "row 1"), ("10", "row 9"), ("100", "row 99")]
    a.run("update crop set id = -id where id = 5")
    a.run("update crop set id = 5, name = 'moved and changed' where id = -5")
    nodes.ends_same("crop")
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
    assert nodes.ends_same("crop") == [("1", "1", "b", "2"), ("2", "1", "a", "1"), ("3", "1", "c", "3")]


def test_truncate_is_captured_and_rows_may_come_again(nodes: Nodes) -> None:
    a, b = nodes
    a.run("create table crop (id int primary key, name text, n int)")
    a.share("crop", '{"n": "counter"}')
    a.run("insert into crop select i, 'x', i from generate_series(1, 700) i")
    nodes.sync()
    b.run("truncate crop")
    assert nodes.ends_same("crop") == []
    a.run("insert into crop values (1, 'again', 5), (2, 'again', 5)")
    b.run("insert into crop values (3, 'again', 5)")
    assert nodes.ends_same("crop") == [("1", "again", "5"), ("2", "again", "5"), ("3", "again", "5")]


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
    assert (nodes.ends_same("field"), nodes.ends_same("crop")) == ([], [])
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
    assert len(nodes.ends_same("leaf")) == 30
    a.run("delete from field where id = 3")
    for table in ("field", "crop", "leaf"):
        assert nodes.ends_same(table) == []
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
    assert nodes.ends_same("crop") == [("1", "11", "11", "0"), ("2", "11", "12", "0"), ("3", "3", "3", "0")]
    a.run("delete from field where id > 10")
    assert nodes.ends_same("crop") == [("1", None, None, "0"), ("2", None, None, "0"), ("3", "3", "3", "0")]
    a.run("delete from field")
    assert nodes.ends_same("crop") == [
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
    nodes.ends_same("field")
    nodes.ends_same("crop")


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
    assert nodes.ends_same("crop") == [("1", "c", "2"), ("2", "c", "2")]
    a.run("update crop set name = 'd', version = 0 where id = 1")
    assert nodes.ends_same("crop") == [("1", "d", "2"), ("2", "c", "2")]


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
    assert [row[:3] for row in nodes.ends_same("crop")] == [
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
    assert [row[0] for row in nodes.ends_same("crop", "id")] == ["104", "2", "5", "6", "7"]
    a.run("update crop set name = 'go' where id = 5")
    a.run("update crop set name = 'move' where id = 6")
    a.run("delete from crop where id = 2")
    nodes.ends_same("crop", "id")
    a.run("delete from crop")
    assert nodes.ends_same("crop", "id") == [("7", "stayed")]


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
    assert len(nodes.ends_same("crop")) == 8
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
