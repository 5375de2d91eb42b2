"""Deleted rows are forgotten once every member knows of it, and not before."""

from __future__ import annotations

import pytest

from support.fix_nodes import Nodes

TOMBSTONES = 'select count(*) from atoll_side."public.item" where atoll_death is not null'


@pytest.fixture
def three(three_nodes: Nodes) -> Nodes:
    three_nodes[0].run("create table item (id integer primary key, word text)")
    three_nodes[0].share("item")
    three_nodes.sync()
    for node in three_nodes:
        node.owner("update atoll.setting set value = '0 s' where name = 'tombstone_retention'")
    three_nodes[0].run("insert into item select n, 'x' from generate_series(1, 40) n")
    three_nodes.sync()
    three_nodes[1].run("delete from item where id <= 30")
    three_nodes.sync()
    return three_nodes


def beat(nodes: Nodes, *silent: int) -> None:
    """Everybody but the silent makes a mark, and all hear it."""
    for node in nodes:
        if node.number not in silent:
            node.owner("select atoll.make_marks(true)")
    nodes.sync()


def test_what_everybody_knows_to_be_deleted_is_forgotten(three: Nodes) -> None:
    for _ in range(4):
        beat(three)
    for node in three:
        node.owner("select atoll.forget_deleted()")
        assert node.owner(TOMBSTONES) == [(0,)]
    three[2].run("insert into item values (5, 'anew')")
    three.sync()
    assert len(three.same("item")) == 11


def test_a_silent_member_keeps_them_from_being_forgotten(three: Nodes) -> None:
    for _ in range(4):
        beat(three, 3)
    three[0].owner("select atoll.forget_deleted()")
    assert three[0].owner(TOMBSTONES) == [(30,)]


def test_what_was_deleted_lately_is_remembered(three: Nodes) -> None:
    three[0].owner("update atoll.setting set value = '1 hour' where name = 'tombstone_retention'")
    for _ in range(4):
        beat(three)
    three[0].owner("select atoll.forget_deleted()")
    assert three[0].owner(TOMBSTONES) == [(30,)]


def test_a_large_table_is_gone_through_in_steps(three: Nodes) -> None:
    three[1].run("insert into item select n, 'x' from generate_series(100, 3000) n")
    three.sync()
    three[1].run("delete from item where id >= 100")
    three.sync()
    for _ in range(4):
        beat(three)
    forgotten = [three[0].owner("select atoll.forget_deleted(4)")[0][0] for _ in range(60)]
    assert sum(forgotten) == 30 + 2901
    assert max(forgotten) < 2000


def test_a_missing_stretch_shows_and_a_later_one_waits_for_it(three: Nodes) -> None:
    one, two = three[0], three[1]
    beat(three)
    stretches = []
    for key in (50, 51, 52):
        one.run("insert into item values (%s, 'y')", key)
        one.owner("select atoll.make_marks()")
        stretches.append(one.changes())
    heard = "select n, gap_since is not null from atoll.heard where origin = 1 and scope = 'global'"
    (before, _), *_ = two.owner(heard)
    two.receive(stretches[1])
    two.receive(stretches[2])
    assert two.owner(heard) == [(before, True)]
    two.receive(stretches[0])
    assert two.owner(heard) == [(before + 3, False)]
