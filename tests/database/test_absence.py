"""Who counts as away, who may say so, and who is waited for."""

from __future__ import annotations

import pytest

from database.test_returning import beat, without
from support.fix_nodes import Node, Nodes

pytestmark = pytest.mark.slow

ABSENT = "select number from atoll.absence where atoll.is_absent(number)"
QUIET = "update atoll.heard set heard_at = now() - interval '1 hour' where origin = %s"
LATER = "update atoll.silence set noted_at = noted_at - interval '59 seconds'"


@pytest.fixture
def three(three_nodes: Nodes) -> Nodes:
    beat(three_nodes)
    for node in three_nodes:
        node.owner("update atoll.setting set value = '10 min' where name = 'absence_max'")
    return three_nodes


def count(node: Node, minutes: int) -> list[tuple[int, bool]]:
    """Minutes pass, for this node's counting; what it says in the end."""
    said: list[tuple[int, bool]] = []
    for _ in range(minutes):
        said = node.owner("select number, is_marked from atoll.note_absences()")
        node.owner(LATER)
    return said


def test_who_is_not_heard_for_long_is_marked_and_everybody_knows(three: Nodes) -> None:
    one, two, three_ = three
    one.owner(QUIET, 3)
    assert count(one, 8) == []
    assert count(one, 2) == [(3, False)]
    assert one.owner("select atoll.absent_from(3) between now() and now() + interval '3 minutes'") == [
        (True,)
    ]
    assert one.owner(ABSENT) == []
    count(one, 2)
    three.sync()
    for node in three:
        assert node.owner(ABSENT) == [(3,)]
    assert three_.owner("select atoll.hears_most(), atoll.is_absent(atoll.me())") == [(False, True)]
    assert two.owner("select atoll.hears_most()") == [(True,)]


def test_who_is_heard_again_begins_anew(three: Nodes) -> None:
    one = three[0]
    one.owner(QUIET, 3)
    count(one, 9)
    beat(three)
    assert count(one, 1) == []
    one.owner(QUIET, 3)
    assert count(one, 8) == []
    assert one.owner(ABSENT) == []


def test_who_hears_nobody_marks_nobody(three: Nodes) -> None:
    three_ = three[2]
    three_.owner(QUIET, 1)
    three_.owner(QUIET, 2)
    assert count(three_, 30) == []
    assert three_.owner("select max(seconds)::int from atoll.silence") == [(0,)]
    # Time in which it was cut off is nobody's silence.
    three[0].owner("select atoll.make_marks(true)")
    three.sync()
    assert count(three_, 5) == []


@pytest.mark.parametrize(("place", "speaks"), [(0, True), (1, False)])
def test_of_two_the_lower_number_decides(three: Nodes, place: int, speaks: bool) -> None:
    three[0].owner("select atoll.mark_absent(3)")
    three.sync()
    here, there = three[place], three[1 - place]
    here.owner(QUIET, there.number)
    assert here.owner("select atoll.hears_most()") == [(speaks,)]


def test_who_is_back_is_waited_for_and_may_be_marked_again(three: Nodes) -> None:
    one = three[0]
    one.owner("select atoll.mark_absent(3)")
    one.owner("select atoll.mark_absent(3)")
    left = without(three, three[2])
    for _ in range(3):
        beat(left)
    settled = one.owner("select atoll.settled_up_to()")[0][0]
    assert settled > one.owner("select covered from atoll.heard where origin = 3 and scope = 'global'")[0][0]
    one.owner("update atoll.absence set returned_at = now() + interval '1 minute'")
    assert one.owner(ABSENT) == []
    assert one.owner("select atoll.settled_up_to()")[0][0] < settled
    one.owner("select atoll.mark_absent(3)")
    assert one.owner(ABSENT) == [(3,)]


def test_a_new_number_is_no_way_around_it(three: Nodes) -> None:
    one = three[0]
    one.owner("insert into atoll.node (number, name, region, tier) values (3, 'n3', 'us', 'edge')")
    one.owner("select atoll.mark_absent(3)")
    one.owner("select atoll.know_again(40000, 'n3', 'us', 'edge', '{}')")
    assert one.owner("select atoll.is_absent(40000), atoll.is_absent(2)") == [(True, False)]


def test_a_copy_by_an_absent_member_is_not_taken(three: Nodes) -> None:
    one, _, three_ = three
    one.run("create table item (id integer primary key, word text)")
    one.share("item")
    three.sync()
    three_.run("insert into item values (1, 'old')")
    three_.changes()
    one.owner("select atoll.mark_absent(3)")
    three_.owner("insert into atoll.progress (peer, missed) values (1, true)")
    three_.apply.execute("set session_replication_role = origin")
    three_.apply.execute("call atoll.seed(1)")
    one.receive(three_.changes())
    assert one.rows("item", "1") == []
