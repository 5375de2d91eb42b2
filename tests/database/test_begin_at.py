"""From where on the log is sent to a peer that begins anew: after what it has heard, and never further."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from atoll.sql import query
from support.fix_nodes import Change, Node, Nodes

pytestmark = pytest.mark.slow

TRIM = """
with gone as (delete from atoll.change where op = 'M' and origin = 1 returning scope, xid)
update atoll.heard h set trimmed = g.xid from (select scope, max(xid) as xid from gone group by scope) g
 where h.origin = 1 and h.scope = g.scope
"""
NEIGHBOURS = json.dumps(
    [{"number": n, "role": role, "in_use": True} for n, role in ((2, "down"), (3, "side"))]
)
PLACE = "select atoll.unheard_from(2, %s::jsonb)::text::bigint"
OF = "select xid::text::bigint from atoll.change where tbl = 'public.item' and origin = %s order by xid desc limit 1"
MARK = "select xid::text::bigint from atoll.change where op = 'M' and origin = 1 order by xid desc limit 1"
SINCE = "select since::text::bigint from atoll.progress where peer = 2"


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    return sharing(nodes)


@pytest.fixture
def three(three_nodes: Nodes) -> Nodes:
    """The first is the hub of the second."""
    three_nodes[0].owner("select atoll.set_neighbours(%s::jsonb)", NEIGHBOURS)
    return sharing(three_nodes)


def sharing(nodes: Nodes) -> Nodes:
    for node in nodes:
        node.run("create table item (id integer primary key, word text)")
        node.share("item")
    mark(nodes)
    return nodes


def mark(nodes: Nodes) -> Any:
    """Everybody says what has been written, and hears the others; what the second one has heard then."""
    nodes.sync()
    for node in nodes:
        node.owner("select atoll.make_marks(true)")
    nodes.sync()
    return heard(nodes[1])


def heard(node: Node) -> Any:
    return node.owner(query("fleet", "heard"))[0][0]


def write(node: Node, number: int) -> int:
    node.run("insert into item values (%s, 'x')", number)
    return int(node.owner(OF, node.number)[0][0])


def place(node: Node, told: Any) -> int:
    return int(node.owner(PLACE, json.dumps(told))[0][0])


def begin(node: Node, told: Any) -> int:
    node.owner("select atoll.begin_at(2, %s::jsonb)", told and json.dumps(told))
    return int(node.owner(SINCE)[0][0])


def test_what_was_heard_is_not_sent_again(two: Nodes) -> None:
    one, other = two
    first = write(one, 1)
    assert place(one, heard(other)) <= first
    told = mark(two)
    assert place(one, told) > first
    one.owner("select atoll.make_marks(true)")
    (unheard,) = one.owner(MARK)[0]
    second = write(one, 2)
    assert first < place(one, told) <= unheard < second


def test_what_ran_while_the_mark_was_made_is_not_covered(two: Nodes) -> None:
    one, _ = two
    with one.app.transaction():
        one.run("insert into item values (1, 'slow')")
        (slow,) = one.run("select pg_current_xact_id()::text::bigint")[0]
        mark(two)
    two.sync()
    assert place(one, heard(two[1])) <= slow


def test_what_came_in_one_piece_with_a_mark_is_not_covered(three: Nodes) -> None:
    """As where a relay has copied the log of another node."""
    relay, other, third = three
    third.owner("select atoll.make_marks(true)")
    third.run("insert into item values (1, 'after it')")
    marks, after = by_kind(third)
    other.receive(marks)
    relay.receive([*marks, *after])
    assert place(relay, heard(other)) <= relay.owner(OF, 3)[0][0]


def test_what_began_to_arrive_before_a_mark_and_ended_after_it_is_not_covered(three: Nodes) -> None:
    """As where a large transaction is applied while it is still being sent."""
    relay, other, third = three
    with third.app.transaction():
        third.run("insert into item values (1, 'slow')")
        third.owner("select atoll.make_marks(true)")
    marks, slow = by_kind(third)
    other.receive(marks)
    with psycopg.connect(relay.database.conninfo(), autocommit=True) as second:
        second.execute("set session_replication_role = replica")
        streaming = Node(relay.number, relay.database, relay.app, second)
        with second.transaction():
            streaming.receive(slow)
            relay.receive(marks)
    assert place(relay, heard(other)) <= relay.owner(OF, 3)[0][0]


def by_kind(node: Node) -> tuple[list[Change], list[Change]]:
    """What a node has written since the last call: marks, and the others."""
    changes = node.changes()
    return [one for one in changes if one.op == "M"], [one for one in changes if one.op != "M"]


def test_a_mark_that_was_trimmed_covers_only_who_has_heard_it(two: Nodes) -> None:
    one, _ = two
    early = mark(two)
    first = write(one, 1)
    late = mark(two)
    one.owner(TRIM)
    assert place(one, early) <= first < place(one, late)


def test_the_place_goes_back_for_who_has_lost_what_it_said(two: Nodes) -> None:
    one, other = two
    early = heard(other)
    first = write(one, 1)
    assert begin(one, mark(two)) > first
    assert 0 < begin(one, early) <= first
    assert begin(one, None) == 0


def test_who_stands_by_is_as_far_as_where_it_would_begin_anew(two: Nodes) -> None:
    """And never goes back."""
    one, _ = two
    one.owner("insert into atoll.progress (peer) values (2) on conflict do nothing")
    reached = "select xid::text::bigint from atoll.progress where peer = 2"
    write(one, 1)
    told = mark(two)
    last = write(one, 2)
    one.owner(query("fleet", "note_heard"), 2, json.dumps(told))
    far = one.owner(reached)[0][0]
    assert far == place(one, told) <= last
    one.owner(query("fleet", "note_heard"), 2, "[]")
    assert one.owner(reached)[0][0] == far
    told = mark(two)
    one.owner(query("fleet", "note_heard"), 2, json.dumps(told))
    assert last < one.owner(reached)[0][0] <= place(one, told)


def test_the_log_is_kept_for_the_hub_of_this_region_while_another_regions_is_asked(three: Nodes) -> None:
    """The third is of another region, so what is of this one alone comes to the second from here or not at all."""
    one = three[0]

    def stand(number: int, in_use: int) -> None:
        roles = [{"number": n, "role": "up", "in_use": n == in_use} for n in (2, 3)]
        one.owner("select atoll.set_neighbours(%s::jsonb)", json.dumps(roles))
        one.owner("select atoll.unpublish_to(%s)", number)
        one.owner("select atoll.publish_to(%s)", in_use)

    def kept() -> list[int]:
        return [number for (number,) in one.owner("select peer from atoll.progress order by peer")]

    one.owner("select atoll.publish_to(2)")
    stand(2, in_use=3)
    assert kept() == [2, 3], "what is of this region is kept for the second"
    stand(3, in_use=2)
    assert kept() == [2], "of what is this node's, the second may have all that the third may"
