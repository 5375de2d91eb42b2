"""The change feed: ordered, resumable, and never ahead of a transaction that is still running."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection

from atoll.data import feed as feeds
from support.fix_nodes import Node, Nodes
from support.fix_postgres import APP_ROLE

TABLE = "create table note (id bigint primary key, words text)"


def read(node: Node, feed: str = "f", most: int = 1000) -> list[tuple[Any, ...]]:
    return node.run('select xid::text, pos, origin, op::text, "row" from atoll.read_feed(%s, %s)', feed, most)


def words(found: list[tuple[Any, ...]]) -> list[str | None]:
    return [row[4].get("words") for row in found]


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    nodes[0].run(TABLE)
    nodes[0].share("note")
    nodes.sync()
    return nodes


def test_own_and_arriving_changes_are_read_in_order_and_resumed(two: Nodes) -> None:
    here, there = two
    here.run("select atoll.open_feed('f', '{note}')")
    here.run("insert into note values (1, 'one'), (2, 'two')")
    there.run("insert into note values (3, 'three')")
    here.receive(there.changes())
    here.run("update note set words = 'uno' where id = 1")
    found = read(here)
    assert words(found) == ["one", "two", "three", "uno"]
    assert [row[2] for row in found] == [here.number, here.number, there.number, here.number]
    assert read(here) == found, "reading does not move the cursor"
    here.run("select atoll.move_feed('f', %s::xid8, %s)", found[1][0], found[1][1])
    assert words(read(here)) == ["three", "uno"]


def test_a_slow_transaction_with_a_smaller_number_is_never_skipped(two: Nodes) -> None:
    here = two[0]
    here.run("select atoll.open_feed('f', '{note}')")
    with psycopg.connect(here.database.conninfo(APP_ROLE)) as slow:
        slow.execute("insert into note values (1, 'slow')")
        here.run("insert into note values (2, 'quick')")
        assert read(here) == [], "the quick one waits for the slow one"
        slow.commit()
    found = read(here)
    assert words(found) == ["slow", "quick"]


def test_a_step_is_bounded_and_an_update_names_only_what_it_changed(two: Nodes) -> None:
    here = two[0]
    here.run("select atoll.open_feed('f')")
    for number in range(5):
        here.run("insert into note values (%s, 'x')", number)
    assert len(read(here, most=2)) == 2
    here.run("update note set words = 'y' where id = 0")
    assert read(here)[-1][4] == {"id": "0", "words": "y"}


def test_a_cursor_keeps_its_changes_and_a_closed_one_lets_them_go(two: Nodes) -> None:
    here, there = two
    here.run("select atoll.open_feed('f', '{note}')")
    there.run("insert into note values (3, 'three')")
    here.receive(there.changes())
    here.owner("select atoll.trim()")
    assert words(read(here)) == ["three"]
    here.run("select atoll.close_feed('f')")
    here.owner("select atoll.trim()")
    assert here.owner("select count(*) from atoll.change where origin = %s", there.number) == [(0,)]


async def test_a_program_follows_a_table_and_goes_on_where_it_was(two: Nodes) -> None:
    here = two[0]
    here.run("select atoll.open_feed('shop', '{note}')")
    here.run("insert into note values (1, 'one')")

    async def next_batch() -> list[str]:
        async with await AsyncConnection.connect(
            here.database.conninfo(APP_ROLE), autocommit=True
        ) as session:
            async for batch in feeds.follow(session, "shop", ["note"]):
                found = [str(row.row["words"]) for row in batch]
                if "stop" in found or "one" not in found:
                    return found
                here.run("insert into note values (2, 'two')")
        raise AssertionError("the feed ended")

    assert await next_batch() == ["two"]
    # The second batch was not confirmed: it is seen again, and nothing is skipped.
    assert await next_batch() == ["two"]


async def test_a_commit_wakes_a_listener(two: Nodes) -> None:
    here, there = two
    here.run("select atoll.open_feed('f', '{note}')")
    async with await AsyncConnection.connect(here.database.conninfo(APP_ROLE), autocommit=True) as session:
        await session.execute("listen atoll_change")
        here.run("insert into note values (1, 'one')")
        assert [n.channel async for n in session.notifies(timeout=20, stop_after=1)] == ["atoll_change"]
        there.run("insert into note values (2, 'two')")
        here.receive(there.changes())
        assert [n.channel async for n in session.notifies(timeout=20, stop_after=1)] == ["atoll_change"]


def test_a_copy_of_everything_reaches_a_follower_too(two: Nodes) -> None:
    here, there = two
    there.run("select atoll.open_feed('f', '{note}')")
    here.run("insert into note values (1, 'one'), (2, 'two'), (3, 'three')")
    here.run("update note set words = 'zwei' where id = 2")
    here.run("delete from note where id = 3")
    here.changes()  # these never arrive
    here.apply.execute("set session_replication_role = origin")
    here.apply.execute("select atoll.publish_to(%s)", [there.number])
    here.apply.execute("select atoll.owe_seed(%s)", [there.number])
    here.apply.execute("call atoll.seed(%s)", [there.number])
    here.apply.execute("set session_replication_role = replica")
    there.receive([change for change in here.changes() if change.target == there.number])
    assert there.rows("note") == [("1", "one"), ("2", "zwei")]
    found = {row[4]["id"]: (row[3], row[4].get("words")) for row in read(there)}
    assert found == {"1": ("S", "one"), "2": ("S", "zwei"), "3": ("D", "three")}


def test_a_role_without_rights_on_the_tables_cannot_follow_them(two: Nodes) -> None:
    here = two[0]
    here.owner("create role nosy")
    here.run("select atoll.open_feed('f')")
    with psycopg.connect(here.database.conninfo()) as session:
        session.execute("set role nosy")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("select * from atoll.read_feed('f')")
        session.rollback()
    here.owner("drop role nosy")


def test_a_feed_that_was_left_behind_by_the_bounds_of_the_log_says_so(two: Nodes) -> None:
    here = two[0]
    here.run("select atoll.open_feed('slow')")
    here.run("insert into note values (1, 'one')")
    here.owner("select atoll.publish_to(%s)", two[1].number)
    here.owner("select atoll.make_marks()")
    here.owner("select atoll.trim()")
    assert words(read(here, "slow")) == ["one"], "a cursor keeps what it has not passed"
    here.run("insert into note values (2, 'two')")
    here.owner("update atoll.setting set value = '0 seconds' where name = 'change_retention'")
    here.owner("select atoll.trim()")
    with pytest.raises(psycopg.Error) as refused:
        read(here, "slow")
    assert refused.value.diag.constraint_name == "feed-missed"
    here.run("select atoll.close_feed('slow')")
    here.run("select atoll.open_feed('slow')")
    here.run("insert into note values (3, 'three')")
    assert words(read(here, "slow")) == ["three"]
