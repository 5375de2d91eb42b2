"""Tokens: what was written on one node is waited for on another, and not believed to be there before it is."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import psycopg
import pytest

from support.fix_nodes import Node, Nodes
from support.fix_postgres import APP_ROLE

pytestmark = pytest.mark.slow

TABLE = "create table note (id bigint primary key, words text)"
NOW = "select atoll.wait_for(%s, '0')"
GENEROUS = "select atoll.wait_for(%s, '60 s')"


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    nodes[0].run(TABLE)
    nodes[0].share("note")
    nodes.sync()
    return nodes


def slug(call: Any) -> str | None:
    with pytest.raises(psycopg.Error) as refused:
        call()
    return refused.value.diag.constraint_name


def test_a_token_holds_when_a_mark_behind_the_write_has_come(two: Nodes) -> None:
    here, there = two
    here.run("begin")
    here.run("insert into note values (1, 'one')")
    token = here.value("select atoll.token()")
    here.run("commit")
    assert here.value(NOW, token) is True, "its own are here"
    there.receive(here.changes())
    assert there.value(NOW, token) is False, "the row has come, but nothing says that it is all"
    here.owner("select atoll.make_marks(true)")
    there.receive(here.changes())
    assert there.value(NOW, token) is True
    assert there.rows("note") == [("1", "one")]


def test_a_token_of_a_session_that_has_written_before_covers_that(two: Nodes) -> None:
    here, there = two
    here.owner("select atoll.make_marks(true)")
    there.receive(here.changes())
    here.run("insert into note values (1, 'one')")
    token = here.value("select atoll.token()")
    here.owner("select atoll.make_marks(true)")
    late = here.changes()
    here.owner("select atoll.make_marks(true)")
    there.receive(here.changes())
    assert there.value(NOW, token) is False, "a mark before this one is missing"
    there.receive(late)
    assert there.value(NOW, token) is True
    assert there.rows("note") == [("1", "one")]


def test_a_token_carries_those_of_nodes_where_the_application_was_before(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    one.run(TABLE)
    one.share("note")
    three_nodes.sync()
    one.run("insert into note values (1, 'one')")
    first = one.value("select atoll.token('')")
    two.run("insert into note values (2, 'two')")
    second = two.value("select atoll.token(%s)", first)
    assert second.startswith("2."), "the node that gave it comes first"
    assert second.endswith(f"~{first}")
    for node in (one, two):
        node.owner("select atoll.make_marks(true)")
    from_one, from_two = one.changes(), two.changes()
    three.receive(from_two)
    assert three.value(NOW, second.split("~")[0]) is True
    assert three.value(NOW, second) is False, "what was written on one has not come"
    assert two.value(NOW, second) is False, "neither has it here, where the token was taken"
    assert one.value(NOW, second) is False
    three.receive(from_one)
    assert three.value(NOW, second) is True
    one.receive(from_two)
    assert one.value(NOW, second) is True
    third = three.value("select atoll.token(%s)", second)
    again = one.value("select atoll.token(%s)", third)
    assert [part.split(".")[0] for part in again.split("~")] == ["1", "2", "3"], "each node once"
    later = one.value("select atoll.token(%s)", again)
    assert later.split("~")[1:] == again.split("~")[1:]
    refused = slug(lambda: one.run("select atoll.confirm(1, '60 s', %s)", later))
    assert refused == "copies-too-many", "its own comes first; there are no neighbours here"


def test_no_mark_covers_what_a_running_transaction_wrote(two: Nodes) -> None:
    here, _ = two
    covered = "select covered from atoll.heard where origin = atoll.me() and scope = 'global'"
    with psycopg.connect(here.database.conninfo(APP_ROLE)) as slow:
        slow.execute("insert into note values (1, 'slow')")
        for _ in range(4):
            here.owner("select atoll.make_marks(true)")
        ((before,),) = here.owner(covered)
        slow.commit()
    ((at,),) = here.owner("select at from atoll.change where op = 'I' order by seq desc limit 1")
    here.owner("select atoll.make_marks()")
    ((after,),) = here.owner(covered)
    assert before < at < after, "one mark after it has ended is enough"


def test_what_stays_in_a_region_is_waited_for_there_and_not_elsewhere(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    one.run("create table patient (id bigint primary key)")
    one.run("select atoll.share('patient', scope => 'region')")
    three_nodes.sync()
    one.run("insert into patient values (1)")
    token = one.value("select atoll.token()")
    one.owner("select atoll.make_marks(true)")
    told = one.changes()
    for node in (two, three):
        node.receive([change for change in told if change.scope == "global"])
    assert three.value(NOW, token) is True, "nothing of it may come here"
    assert two.value(NOW, token) is False
    two.receive([change for change in told if two.may_have(change)])
    assert two.value(NOW, token) is True


def test_a_transaction_that_is_still_open_holds_the_horizon_back(two: Nodes) -> None:
    here, there = two
    with psycopg.connect(here.database.conninfo(APP_ROLE)) as slow:
        slow.execute("insert into note values (1, 'slow')")
        here.run("insert into note values (2, 'quick')")
        token = here.value("select atoll.token()")
        here.owner("select atoll.make_marks(true)")
        there.receive(here.changes())
        assert there.value(NOW, token) is False
        slow.commit()
    here.told = 0
    here.owner("select atoll.make_marks(true)")
    there.receive(here.changes())
    assert there.value(NOW, token) is True


@pytest.mark.parametrize("block", [False, True])
def test_a_wait_sees_what_arrives_meanwhile(two: Nodes, block: bool) -> None:
    here, there = two
    here.run("insert into note values (1, 'one')")
    token = here.value("select atoll.token()")
    here.owner("select atoll.make_marks(true)")
    if block:
        there.run("begin")
        there.run("select count(*) from note")
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(there.value(GENEROUS, token)))
    waiting.start()
    _until_asleep(there)
    there.receive(here.changes())
    waiting.join(60)
    assert answers == [True]
    assert there.run("select words from note") == [("one",)], "and the next statement sees the row"
    if block:
        there.run("commit")


def _until_asleep(node: Node) -> None:
    asleep = "select true from pg_stat_activity where pid = %s and wait_event = 'PgSleep'"
    pid = node.app.info.backend_pid
    for _ in range(100_000):
        if node.apply.execute(asleep, [pid]).fetchall():
            return
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_transaction_that_sees_nothing_new_is_told_so(two: Nodes, level: str) -> None:
    here, there = two
    token = here.value("select atoll.token()")
    there.run(f"begin isolation level {level}")
    assert slug(lambda: there.value(GENEROUS, token)) == "snapshot-fixed"
    there.run("rollback")


@pytest.mark.parametrize("token", ["", "1", "1.", ".1", "1.2.3", "1.-2", "1.9999999999999999999", "x", None])
def test_what_is_no_token_is_refused(two: Nodes, token: str | None) -> None:
    assert slug(lambda: two[0].value(NOW, token)) == "token-malformed"


def test_a_wait_has_bounds(two: Nodes) -> None:
    for timeout in ("-1 s", "2 hours", None):
        ask = "select atoll.wait_for('1.1', %s::interval)"
        assert slug(lambda ask=ask, timeout=timeout: two[0].value(ask, timeout)) == "wait-limit"


async def test_a_token_asks_for_a_mark_at_its_commit(two: Nodes) -> None:
    here = two[0]
    async with await psycopg.AsyncConnection.connect(here.database.conninfo(), autocommit=True) as session:
        await session.execute("listen atoll_mark")
        here.run("begin")
        here.run("insert into note values (1, 'one')")
        token = here.value("select atoll.token()")
        here.run("commit")
        asked = [n.payload async for n in session.notifies(timeout=60, stop_after=1)]
    assert asked == [str(int(token.split(".")[1]) + 1)]


def test_confirming_counts_the_neighbours_that_have_come_so_far(two: Nodes) -> None:
    here, there = two
    neighbour(here, there)
    assert slug(lambda: here.value("select atoll.confirm(1, '0')")) == "copies-missing", "there is no slot"
    reader = "select pg_create_logical_replication_slot('atoll_to_2', 'pgoutput')"
    here.owner("select atoll.publish_to(2)")
    here.apply.execute(reader)
    here.owner("update atoll.progress set copied = true, missed = false")
    here.run("insert into note values (1, 'one')")
    assert slug(lambda: here.value("select atoll.confirm(1, '0')")) == "copies-missing"
    here.apply.execute("select pg_replication_slot_advance('atoll_to_2', pg_current_wal_insert_lsn())")
    assert confirmed(here) == 1
    here.owner("update atoll.progress set missed = true")
    assert slug(lambda: here.value("select atoll.confirm(1, '0')")) == "copies-missing", (
        "it needs a copy of everything"
    )
    assert slug(lambda: here.value("select atoll.confirm(2, '0')")) == "copies-too-many"
    assert slug(lambda: here.value("select atoll.confirm(0)")) == "copies-none"


def confirmed(node: Node) -> int:
    """Other databases of the server may write between the two statements, so it takes some rounds."""
    for _ in range(1000):
        node.apply.execute("select pg_replication_slot_advance('atoll_to_2', pg_current_wal_insert_lsn())")
        done, at = node.apply.execute(
            "select confirmed_flush_lsn, pg_current_wal_insert_lsn() from pg_replication_slots where slot_name = 'atoll_to_2'"
        ).fetchall()[0]
        if done == at:
            return int(node.value("select atoll.confirm(1, '5 s')"))
    raise AssertionError("the server is never quiet")


def neighbour(here: Node, there: Node) -> None:
    here.owner("insert into atoll.neighbour (number, role) values (%s, 'side')", there.number)


def test_a_neighbour_that_may_not_have_a_row_is_no_copy_of_it(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    one.run("create table patient (id bigint primary key)")
    one.run("select atoll.share('patient', scope => 'region')")
    for other in (two, three):
        neighbour(one, other)
    one.run("begin")
    one.run("insert into patient values (1)")
    token = one.value("select atoll.token()")
    assert slug(lambda: one.value("select atoll.confirm(1)")) == "confirm-before-commit"
    one.run("rollback")
    one.run("begin")
    one.run("insert into patient values (1)")
    token = one.value("select atoll.token()")
    one.run("commit")
    assert slug(lambda: one.value("select atoll.confirm(2, '0', %s)", token)) == "copies-too-many"
    assert slug(lambda: one.value("select atoll.confirm(1, '0', %s)", token)) == "copies-missing"
    assert slug(lambda: two.value("select atoll.confirm(1, '0', %s)", token)) == "token-elsewhere"


async def test_a_wait_can_be_cancelled(two: Nodes) -> None:
    async with await psycopg.AsyncConnection.connect(
        two[1].database.conninfo(APP_ROLE), autocommit=True
    ) as session:
        waiting = asyncio.create_task(session.execute("select atoll.wait_for('1.999999', '1 hour')"))
        await asyncio.to_thread(_until_waits, two[1])
        session.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await waiting


def _until_waits(node: Node) -> None:
    asleep = "select true from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"
    for _ in range(100_000):
        if node.apply.execute(asleep).fetchall():
            return
    raise AssertionError("nobody waits")
