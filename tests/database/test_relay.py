"""The rule by which changes are passed on is the same in Python and in the database."""

from __future__ import annotations

import itertools
from typing import LiteralString, cast

import pytest

from atoll.data.replication.relay import Carried, is_relay, passes
from atoll.data.replication.topology import Member, Role
from support.fix_nodes import REGIONS, Node, Nodes

SCOPES = (
    "global",
    "local",
    *(f"region:{r}" for r in sorted(set(REGIONS))),
    *(f"node:{n}" for n in (1, 2, 3)),
)
WAYS: tuple[tuple[int | None, Role | None], ...] = ((None, None), *itertools.product((2, 3), Role))
CHANGES = [
    Carried(origin, scope, via, way, target)
    for origin, scope, (via, way), target in itertools.product((1, 2, 3), SCOPES, WAYS, (None, 2, 3))
]
EVALUATE = """
select array_agg(({condition}) is true order by ord)
  from unnest(%s::integer[], %s::text[], %s::integer[], %s::"char"[], %s::integer[])
       with ordinality c (origin, scope, via, way, target, ord)
"""


def in_database(node: Node, to: int) -> list[bool]:
    condition = node.owner("select atoll.filter_for(%s)", to)[0][0].replace("%", "%%")
    columns = (
        [c.origin for c in CHANGES],
        [c.scope for c in CHANGES],
        [c.via for c in CHANGES],
        [c.way[0] if c.way else None for c in CHANGES],
        [c.target for c in CHANGES],
    )
    query = cast("LiteralString", EVALUATE.replace("{condition}", condition))
    return cast("list[bool]", node.owner(query, *columns)[0][0])


@pytest.mark.parametrize("role", Role)
def test_both_pass_the_same_changes(three_nodes: Nodes, role: Role) -> None:
    one = three_nodes[0]
    for number in (2, 3):
        one.owner("insert into atoll.neighbour (number, role) values (%s, %s)", number, role.value)
        to = Member(number, REGIONS[number - 1], "edge")
        ours = [passes(change, to, role) for change in CHANGES]
        assert ours == in_database(one, number)
        assert any(ours)
        assert not all(ours)


@pytest.mark.parametrize("role", Role)
def test_both_say_alike_who_relays(three_nodes: Nodes, role: Role) -> None:
    one = three_nodes[0]
    one.owner(
        "select atoll.set_neighbours(jsonb_build_array(jsonb_build_object('number', 2, 'role', %s::text, 'in_use', true)))",
        role.value,
    )
    assert one.owner("select atoll.relays()") == [(is_relay([role]),)]
