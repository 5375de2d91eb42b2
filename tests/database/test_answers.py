"""The answering side of questions: what it sends, what it refuses, and that nothing of it can write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from atoll.analytics.answer import SESSION, Bounds
from atoll.analytics.service import Questions
from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from support.fix_nodes import Node
from support.fix_postgres import APP_ROLE

pytestmark = pytest.mark.slow

REGIONS = "insert into atoll.node (number, name, region, tier) values (1, 'n1', 'eu', 'edge'), (2, 'n2', 'eu', 'edge'), (3, 'n3', 'us', 'edge')"
Make = Callable[..., Questions]


@pytest.fixture
def make(node: Node) -> Make:
    """Makes the questions of a node that knows two others, one of them in its region."""
    node.owner(REGIONS)

    async def as_app() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            node.database.conninfo(APP_ROLE), autocommit=True, options=SESSION
        )

    def found(mode: str = "scoped", bounds: Bounds | None = None) -> Questions:
        return Questions(as_app=as_app, as_owner=node.database.connect, mode=mode, bounds=bounds)

    return found


async def ask(questions: Questions, sql: str, *path: int, seconds: float = 60) -> list[tuple[Any, ...]]:
    page = await questions.answer(path, "question.open", {"id": sql, "sql": sql, "seconds": seconds})
    rows = list(zip(*page["values"], strict=True))
    while not page["is_last"]:
        page = await questions.answer(path, "question.more", {"id": sql})
        rows += zip(*page["values"], strict=True)
    return rows


async def refusal(questions: Questions, sql: str, *path: int, seconds: float = 60) -> AtollError:
    with pytest.raises(AtollError) as caught:
        await ask(questions, sql, *path, seconds=seconds)
    return caught.value


async def sessions(node: Node) -> int:
    query = "select count(*) from pg_stat_activity where datname = current_database() and usename = 'app'"
    return int(node.owner(query)[0][0])


async def until_sessions(node: Node, count: int) -> None:
    """A server's process ends a moment after its connection."""
    async with asyncio.timeout(60):
        while await sessions(node) != count:
            await asyncio.sleep(0.05)


async def until_room(questions: Questions) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                assert await ask(questions, "select 1") == [("1",)]
                return
            except LinkError:
                await asyncio.sleep(0.05)


async def test_values_are_texts_in_pages_whose_types_are_known_without_rows(make: Make) -> None:
    questions = make(bounds=Bounds(page_bytes_max=200))
    first = await questions.answer(
        (), "question.open", {"id": "a", "sql": "select 1 a, 'x'::text a limit 0", "seconds": 9}
    )
    assert (first["columns"], first["values"], first["is_last"]) == ([["a", 23], ["a", 25]], [[], []], True)
    rows = await ask(
        questions, "select n, null::int, n::float8 / 3, now() > 'epoch' from generate_series(1, 500) n"
    )
    assert [row[0] for row in rows] == [str(n) for n in range(1, 501)]
    assert rows[0] == ("1", None, "0.3333333333333333", "t")


@pytest.mark.parametrize(
    "sql",
    [
        "insert into kept values (9) returning id",
        "with gone as (delete from kept returning id) select * from gone",
        "select 1; delete from kept",
        "select 1) q; delete from kept; select * from (select 1",
        "select id from kept for update",
        "select nextval('numbers')",
        "select set_config('transaction_read_only', 'off', false), write_it()",
        "select set_config('role', 'atoll', false)",
        "select * from atoll.self",
        "select pg_read_file('/etc/hostname')",
        "create table made (id int)",
        "copy kept to stdout",
        "commit",
        "select lo_import('/etc/hostname')",
    ],
)
async def test_nothing_can_be_written_and_no_right_gained(node: Node, make: Make, sql: str) -> None:
    node.run("create table kept (id int); insert into kept values (1); create sequence numbers")
    node.run("create function write_it() returns int language sql as 'delete from kept returning id'")
    error = await refusal(make("on"), sql, 2)
    assert error.code in ("question-refused", "question-not-a-select"), error
    assert node.value("select count(*) from kept") == 1
    assert node.value("select last_value from numbers") == 1
    await until_sessions(node, 1)  # the test's own


async def test_what_is_too_large_or_too_slow_ends_with_its_reason(node: Node, make: Make) -> None:
    small = make(bounds=Bounds(rows_max=100, bytes_max=10_000, value_bytes_max=5_000))
    for sql in (
        "select n from generate_series(1, 101) n",
        "select repeat('x', 4000) from generate_series(1, 3)",
        "select repeat('x', 5001)",
    ):
        assert (await refusal(small, sql)).code == "answer-too-large"
    assert len(await ask(small, "select n from generate_series(1, 100) n")) == 100
    assert (await refusal(small, "select pg_sleep(30)", seconds=0.2)).code == "question-slow"
    await until_sessions(node, 1)


async def test_there_is_room_for_so_many_questions(node: Node, make: Make) -> None:
    questions = make(bounds=Bounds(page_bytes_max=100, at_once_max=2))
    payload = {"sql": "select n from generate_series(1, 1000000) n", "seconds": 60}
    for name in ("a", "b"):
        await questions.answer((), "question.open", {"id": name, **payload})
    with pytest.raises(LinkError, match="already"):
        await questions.answer((), "question.open", {"id": "c", **payload})
    await questions.answer((), "question.close", {"id": "a"})
    assert await ask(questions, "select 1")
    await questions.answer((), "question.close", {"id": "b"})


async def test_readings_that_nobody_fetches_end(node: Node, make: Make) -> None:
    questions = make(bounds=Bounds(page_bytes_max=100, idle_seconds_max=0.2, at_once_max=1))
    payload = {"sql": "select n from generate_series(1, 1000000) n", "seconds": 60}
    await questions.answer((), "question.open", {"id": "a", **payload})
    await until_room(questions)
    await until_sessions(node, 1)
    with pytest.raises(DataError, match="not being read"):
        await questions.answer((), "question.more", {"id": "a"})


async def test_closing_ends_the_statement(node: Node, make: Make) -> None:
    questions = make()
    opening = asyncio.create_task(
        questions.answer((), "question.open", {"id": "a", "sql": "select pg_sleep(600)", "seconds": 300})
    )
    await until_sessions(node, 2)
    await questions.answer((), "question.close", {"id": "a"})
    await until_sessions(node, 1)
    with pytest.raises(DataError, match="not being read"):
        await opening


async def test_a_last_page_that_nobody_fetches_holds_no_place(node: Node, make: Make) -> None:
    questions = make(bounds=Bounds(page_bytes_max=100, at_once_max=1, idle_seconds_max=0.2))
    payload = {"id": "a", "sql": "select n from generate_series(1, 30) n", "seconds": 60}
    first = await questions.answer((), "question.open", payload)
    assert not first["is_last"]
    await until_room(questions)


@pytest.fixture
def scoped(node: Node) -> Node:
    """A table that may not leave the node, one of the region, one for all, and ways around their names."""
    for table, scope in (("own", "node"), ("here", "region"), ("all_of_it", "global")):
        node.run(f"create table {table} (id int primary key, secret text)")
        node.run("select atoll.share(%s, scope => %s)", table, scope)
        node.run(f"insert into {table} values (1, 'marker')")
    node.run(
        "create function told_in_words(words text) returns text language plpgsql"
        " as 'declare found text; begin execute words into found; return found; end'"
    )
    node.run("create view seen as select * from own")
    node.run(
        "create function told() returns text language plpgsql as 'begin return (select secret from own); end'"
    )
    node.run(
        "create function told_by_owner() returns text language sql security definer as 'select secret from own'"
    )
    node.run("analyze own")
    return node


@pytest.mark.parametrize(
    ("sql", "by_region", "by_others"),
    [
        ("select secret from all_of_it", True, True),
        ("select count(*) from here", True, False),
        ("select count(*) from own", False, False),
        ("select * from seen", False, False),
        ("select told()", False, False),
        ("select told_by_owner()", False, False),
        ("select told_in_words('select secret from own')", False, False),
        ("select count(*) from all_of_it where exists (select from own)", False, False),
        ("select vals from atoll.change", False, False),
        ("select most_common_vals from pg_stats where tablename = 'own'", False, False),
        ("select atoll.receipt('public.own')", False, False),
    ],
)
async def test_scopes_hold_for_answers(
    scoped: Node, make: Make, sql: str, by_region: bool, by_others: bool
) -> None:
    questions = make("scoped")
    assert await ask(questions, sql), "a node may ask itself"
    assert await ask(make("on"), sql, 3)
    for path, may in (((2,), by_region), ((3,), by_others), ((3, 2), by_others), ((2, 3), by_others)):
        if may:
            assert await ask(questions, sql, *path)
        else:
            error = await refusal(questions, sql, *path)
            assert (type(error), error.code) == (PolicyDenied, "question-scope"), path
    assert (await refusal(make("off"), sql, 2)).code == "questions-off"
