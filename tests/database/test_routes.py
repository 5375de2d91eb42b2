"""Routes in SQL: what may be said, what is refused and how, and that it holds on every node."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atoll.router.place import Kind
from atoll.router.policy.route import from_row
from atoll.sql import query
from support.fix_nodes import Node, Nodes

WISH: dict[str, Any] = {
    "name": "ask",
    "models": {"here": ["pebble"], "cloud": ["large"]},
    "prefer": ["here", "cloud"],
    "deadline_seconds": None,
    "first_token_seconds": 2.5,
    "max_cost": 0.01,
    "labels": {"patient": "local"},
    "hedge_after_seconds": 0.5,
    "keys": [],
    "budget": None,
    "cascade": None,
    "cache": None,
}
CASCADE = {"first": "pebble", "measure": "mean_logprob", "threshold": 0.7}


def say(node: Node, **changed: Any) -> None:
    wish = WISH | changed
    wish |= {
        name: Jsonb(wish[name]) for name in ("models", "labels", "cascade", "cache") if wish[name] is not None
    }
    node.owner("select atoll.set_route(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", *wish.values())


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"name": "Ask!"}, "route-malformed", "cannot name a route"),
        ({"models": {}}, "route-malformed", "has no model"),
        ({"models": {"moon": ["m"]}}, "route-malformed", 'no places of kind "moon"'),
        ({"prefer": []}, "route-malformed", "prefers no place"),
        ({"prefer": ["here", "reef"]}, "route-malformed", 'no place "reef"'),
        ({"prefer": ["here"]}, "route-malformed", "does not lead there"),
        ({"labels": {"patient": "europe"}}, "route-malformed", 'label "patient"'),
        ({"deadline_seconds": 0.0}, "route-malformed", "out of bounds"),
        ({"deadline_seconds": 4000.0}, "route-malformed", "out of bounds"),
        ({"max_cost": -1.0}, "route-malformed", "out of bounds"),
        ({"max_cost": float("inf")}, "route-malformed", "out of bounds"),
        ({"prefer": ["cloud:m"] * 33}, "route-malformed", "says too much"),
        ({"keys": ["nobody"]}, "key-unknown", 'no key "nobody"'),
        ({"budget": "little"}, "budget-unknown", 'no budget "little"'),
        ({"cascade": []}, "cascade-malformed", "no object"),
        ({"cascade": CASCADE | {"speed": 1}}, "cascade-malformed", 'no field "speed"'),
        ({"cascade": CASCADE | {"first": "small"}}, "cascade-malformed", "none of the route's"),
        ({"cascade": CASCADE | {"then": "pebble"}}, "cascade-malformed", "no other model"),
        ({"cascade": CASCADE, "models": {"here": ["pebble"]}}, "cascade-malformed", "no other model"),
        ({"cascade": CASCADE | {"measure": "mood"}}, "cascade-malformed", "needs a measure"),
        ({"cascade": CASCADE | {"threshold": 1.5}}, "cascade-malformed", "threshold from 0 to 1"),
        ({"cascade": CASCADE | {"threshold": "0.5"}}, "cascade-malformed", "threshold from 0 to 1"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused(node: Node, changed: Any, code: str, words: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        say(node, **changed)
    assert refused.value.diag.constraint_name == code
    assert words in str(refused.value.diag.message_primary)


@pytest.mark.parametrize(
    ("expires", "unreachable", "words"),
    [
        (299.0, "refuse", "cannot expire"),
        (float("nan"), "refuse", "cannot expire"),
        (None, "moon", 'no way "moon"'),
        (None, "here", "no model that could answer here"),
    ],
)
def test_a_reach_that_makes_no_sense_is_refused_with_the_whole_route(
    node: Node, expires: float | None, unreachable: str, words: str
) -> None:
    say(node)
    asked = (Jsonb({"cloud": ["large"]}), expires, unreachable)
    with pytest.raises(psycopg.Error, match=words):
        node.owner(
            "select atoll.set_route_reach(atoll.set_route('ask', %s, '{cloud}', null, null, null, '{}', null,"
            " null, null, null, null), %s, %s)",
            *asked,
        )
    assert node.owner("select models ? 'here' from atoll.route") == [(True,)]


async def test_a_reach_is_replaced_with_the_route(node: Node) -> None:
    for expires, unreachable in ((600.0, "here"), (None, "queue"), (None, None)):
        say(node, keys=[], budget=None)
        node.owner("select atoll.set_route_reach('ask', %s, %s)", expires, unreachable)
        async with await node.database.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            (row,) = await (await cursor.execute(query("routes", "all"))).fetchall()
        route = from_row(row)
        assert (route.policy_expires_seconds, route.unreachable) == (expires, unreachable or "refuse")


def test_who_is_alone_hears_nobody_and_others_are_heard_by_their_marks(nodes: Nodes) -> None:
    a, b = nodes
    heard = query("routes", "heard")
    assert a.owner(heard)[0][0] >= 0
    a.owner("update atoll.heard set heard_at = now() - interval '1 hour'")
    a.owner("update atoll.self set seeded_at = now() - interval '1 hour'")
    assert a.owner(heard)[0][0] > 3500
    b.owner("select atoll.make_marks(true)")
    nodes.sync()
    assert a.owner(heard)[0][0] < 3500
    a.owner("update atoll.node set revoked_at = now() where number > 1")
    a.owner("update atoll.self set introduced = '[]'")
    assert a.owner(heard) == []


async def test_what_was_said_is_what_the_node_reads_and_the_latest_word_counts(node: Node) -> None:
    node.owner("insert into atoll.api_key (name, sha256) values ('till', 'x')")
    say(node)
    say(node, max_cost=None, keys=["till"], prefer=["cloud:large", "here"])
    async with await node.database.connect() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        (row,) = await (await cursor.execute(query("routes", "all"))).fetchall()
    route = from_row(row)
    assert (route.deadline_seconds, route.first_token_seconds, route.max_cost) == (300.0, 2.5, None)
    assert (route.prefer, route.keys) == (("cloud:large", "here"), ("till",))
    assert route.models == {Kind.HERE: ("pebble",), Kind.CLOUD: ("large",)}
    node.owner(query("routes", "remove"), "ask")
    with pytest.raises(psycopg.Error) as unknown:
        node.owner(query("routes", "remove"), "ask")
    assert unknown.value.diag.constraint_name == "route-unknown"


def test_a_route_holds_on_every_node_and_applications_cannot_set_one(nodes: Nodes) -> None:
    here, there = nodes
    say(here)
    nodes.sync()
    assert there.run("select name, prefer from atoll.route") == [("ask", ["here", "cloud"])]
    for statement in ("delete from atoll.route", "select atoll.drop_route('ask')"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            there.run(statement)
