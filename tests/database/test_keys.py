"""Keys in SQL: what may be said of one, what is refused and how, and what stays as it was."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from atoll.router.policy.key import Key, Rate, from_row
from atoll.sql import query
from support.fix_nodes import Node, Nodes


def add(node: Node, name: str = "till", **told: Any) -> None:
    node.owner("select atoll.add_key(%s, %s, %s)", name, f"hash of {name}", Jsonb(told))


def change(node: Node, name: str = "till", **told: Any) -> None:
    node.owner("select atoll.set_key(%s, %s)", name, Jsonb(told))


async def read(node: Node, name: str = "till") -> Any:
    async with await node.database.connect() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        rows = await (await cursor.execute(query("keys", "all"))).fetchall()
    return next(from_row(row) for row in rows if row["name"] == name)


@pytest.mark.parametrize(
    ("name", "told", "code", "words"),
    [
        ("no/name", {}, "key-malformed", "cannot name a key"),
        ("desk", {}, "key-exists", 'a key "desk" already'),
        ("till", {"rate": "60"}, "key-malformed", '"60" is no rate'),
        ("till", {"token_rate": "1/week"}, "key-malformed", '"1/week" is no rate'),
        ("till", {"scope": "eu"}, "key-malformed", '"eu" is no scope'),
        ("till", {"budget": "purse"}, "budget-unknown", 'no budget "purse"'),
        ("till", {"tables": ["t"] * 33}, "key-malformed", "32 tables"),
        ("till", {"speed": 1}, "key-malformed", 'no field "speed"'),
    ],
)
def test_a_key_that_makes_no_sense_is_refused(
    node: Node, name: str, told: dict[str, Any], code: str, words: str
) -> None:
    add(node, "desk")
    with pytest.raises(psycopg.Error) as refused:
        add(node, name, **told)
    assert refused.value.diag.constraint_name == code
    assert words in str(refused.value.diag.message_primary)
    assert node.owner("select count(*) from atoll.api_key") == [(1,)]


async def test_only_what_is_named_changes_and_null_takes_it_away(node: Node) -> None:
    add(node, rate="60/min", scope="local", tables=["stock"])
    change(node, token_rate="9/s", may_read=True)
    assert await read(node) == Key(
        "till", True, Rate(60, 60), Rate(9, 1), None, "local", frozenset({"stock"})
    )
    change(node, rate=None, tables=None, scope=None)
    assert await read(node) == Key("till", True, None, Rate(9, 1))
    with pytest.raises(psycopg.Error, match='no key "desk"'):
        change(node, "desk", rate="1/s")
    node.owner("update atoll.api_key set revoked_at = now()")
    with pytest.raises(psycopg.Error, match='no key "till"'):
        change(node, rate="1/s")
    assert (await read(node)).token_rate == Rate(9, 1), "a job that it asked for is still its"


async def test_two_nodes_that_change_different_things_of_a_key_both_count(nodes: Nodes) -> None:
    a, b = nodes
    add(a)
    nodes.sync()
    change(a, rate="60/min")
    change(b, scope="local")
    nodes.sync()
    for node in (a, b):
        key = await read(node)
        assert (key.rate, key.scope) == (Rate(60, 60), "local")
