"""What the asking node's database knows about the nodes, and about the tables and functions of a question."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection

from atoll.analytics.question import Catalog, Member, Reach, Relation
from atoll.sql import query

REACHES = {"global": Reach.GLOBAL, "region": Reach.REGION}
NAMES_MAX = 1_000
Connection = AsyncConnection[tuple[Any, ...]]


async def read_members(connection: Connection) -> list[Member]:
    """Every node; at what distance, where there is a link."""
    rows = await (await connection.execute(query("questions", "members"))).fetchall()
    return [
        Member(number, name, region, tier, 0.0 if is_me else math.inf if distance is None else distance)
        for number, name, region, tier, is_me, distance in rows
    ]


async def read_catalog(connection: Connection, names: Iterable[str], text: str) -> Catalog:
    """The named tables and views, and which of the question's functions are aggregates."""
    wanted = list(names)[:NAMES_MAX]
    rows = await (await connection.execute(query("questions", "relations"), (wanted,))).fetchall()
    relations = {name: relation(columns or [], scopes or []) for name, columns, scopes in rows}
    functions = sorted(set(re.findall(r"(\w+)\s*\(", text.lower())))[:NAMES_MAX]
    found = await (await connection.execute(query("questions", "aggregates"), (functions,))).fetchall()
    return Catalog(relations, frozenset(name for (name,) in found))


def relation(columns: list[str], scopes: list[dict[str, Any]]) -> Relation:
    """A table's reach is its scope's; a view's the narrowest of what it reads. Unshared tables stay here."""
    if len(scopes) == 1 and scopes[0]["scope_column"]:
        only = scopes[0]
        return Relation(Reach.ROW, only["scope_column"], only["scope"], tuple(columns))
    reaches = [
        Reach.NODE if scope["scope_column"] else REACHES.get(scope["scope"] or "local", Reach.NODE)
        for scope in scopes
    ]
    is_countable = not any(scope["scope_column"] for scope in scopes)
    return Relation(min(reaches, default=Reach.NODE), columns=tuple(columns), is_countable=is_countable)
