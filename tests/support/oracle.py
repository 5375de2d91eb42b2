"""What a history of writes has to come to, written from the meaning of merging alone, in plain Python.

A node knows a set of writes, in no order. `Oracle.look` says what its table holds then: which rows live,
which are set aside, and what each column shows. Nothing here keeps a state from one write to the next, so
there is nothing that an order of arrival could change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Key = tuple[Any, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Table:
    """The columns beside the key, and how each merges: a policy's name, or a function of two values."""

    columns: Mapping[str, str | Callable[[Any, Any], Any]]
    groups: tuple[tuple[str, ...], ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()

    def together(self, names: Iterable[str]) -> set[str]:
        named = set(names)
        for group in self.groups:
            if named & set(group):
                named |= set(group)
        return named


@dataclass(frozen=True)
class Write:
    """One row of one statement: its stamp, who wrote it, and what was there before."""

    kind: Literal["insert", "update", "delete"]
    key: Key
    stamp: int
    row: Row = field(default_factory=dict)  # the columns that were written
    before: Row = field(default_factory=dict)  # what an update found in them
    epoch: int = 0  # the deletion that the writer's row had come after

    @property
    def node(self) -> int:
        return self.stamp & 65535


@dataclass(frozen=True)
class Seen:
    """A row as a set of writes makes it."""

    values: Row
    lives: bool
    epoch: int
    death: int
    last: int  # the latest write, 0 if there is none
    claims: tuple[int, str]  # how late it claimed its unique keys; equal claims go by the key's text


@dataclass(frozen=True)
class View:
    """What a table holds: rows in it, rows set aside, and every row that was ever heard of."""

    rows: dict[Key, Row]
    aside: dict[Key, Row]
    seen: dict[Key, Seen]


class Oracle:
    def __init__(self, table: Table) -> None:
        self.table = table

    def look(self, writes: Iterable[Write]) -> View:
        by_key: dict[Key, list[Write]] = {}
        for write in set_of(writes):
            by_key.setdefault(write.key, []).append(write)
        seen = {key: self.row(key, of_key) for key, of_key in by_key.items()}
        rows: dict[Key, Row] = {}
        aside: dict[Key, Row] = {}
        # Whoever claimed last is placed first; a later-placed row must not meet a row that is there.
        for key, one in sorted(seen.items(), key=lambda item: item[1].claims, reverse=True):
            if one.lives:
                taken = any(self.collide(one.values, other) for other in rows.values())
                (aside if taken else rows)[key] = one.values
        return View(rows, aside, seen)

    def collide(self, a: Row, b: Row) -> bool:
        return any(
            all(a[name] is not None and a[name] == b[name] for name in unique)
            for unique in self.table.uniques
        )

    def row(self, key: Key, writes: list[Write]) -> Seen:
        inserts = [w for w in writes if w.kind == "insert"]
        death = max((w.stamp for w in writes if w.kind == "delete"), default=0)
        birth = max((w.stamp for w in inserts), default=0)
        epoch = max((w.epoch for w in writes if w.kind == "insert" or self.has_policy(w)), default=0)
        stamps: dict[str, int] = {}
        values: Row = {}
        for name, policy in self.table.columns.items():
            to_it = [w for w in writes if name in w.row and (policy == "lww" or w.epoch == epoch)]
            stamps[name] = max((w.stamp for w in to_it), default=0)
            values[name] = merged(policy, name, to_it)
        last = max([birth, *stamps.values()])
        unique = {name for names in self.table.uniques for name in names}
        claimed = max([birth, *(stamps[name] for name in unique)])
        text = "(" + ",".join(str(part) for part in key) + ")"
        lives = birth > epoch and last > death
        return Seen(values, lives, epoch, death, last, (claimed, text))

    def has_policy(self, write: Write) -> bool:
        return any(self.table.columns[name] != "lww" for name in write.row)


def set_of(writes: Iterable[Write]) -> list[Write]:
    return list({(w.key, w.stamp, w.kind): w for w in writes}.values())


def merged(policy: str | Callable[[Any, Any], Any], name: str, writes: list[Write]) -> Any:
    """One column's value, of all writes to it that count."""
    if not writes:
        return None
    in_time = sorted(writes, key=lambda w: w.stamp)
    stated = [w.row[name] for w in in_time if w.row[name] is not None]
    if policy == "lww":
        return in_time[-1].row[name]
    if policy == "first":
        return stated[0] if stated else None
    if policy == "max":
        return max(stated, default=None)
    if policy == "min":
        return min(stated, default=None)
    if policy == "counter":
        return counted(name, in_time)
    if policy in ("set", "document"):
        return collected(policy, name, in_time)
    assert callable(policy)
    folded = None
    for value in stated:
        folded = value if folded is None else policy(folded, value)
    return folded


def counted(name: str, in_time: list[Write]) -> int | None:
    """An INSERT states what its node contributes; each UPDATE adds what it changed."""
    parts: dict[int, int] = {}
    for write in in_time:
        if write.kind == "insert":
            if write.row[name] is not None:
                parts[write.node] = write.row[name]
        else:
            change = (write.row[name] or 0) - (write.before[name] or 0)
            parts[write.node] = parts.get(write.node, 0) + change
    return sum(parts.values()) if parts else None


def collected(policy: str, name: str, in_time: list[Write]) -> Any:
    """Each element or key is a register of its own: there, or taken away. So is whether there is a value."""
    registers: dict[str, Any] = {}
    missing = object()
    for write in in_time:
        new = parts_of(policy, write.row[name])
        old = {} if write.kind == "insert" else parts_of(policy, write.before[name])
        for part in old.keys() | new.keys():
            if write.kind == "insert" or old.get(part, missing) != new.get(part, missing):
                registers[part] = new.get(part, missing)
    there = {part: value for part, value in registers.items() if value is not missing}
    if not there:
        return None
    there.pop("", None)
    if policy == "document":
        return {json.loads(part): value for part, value in there.items()}
    return sorted((json.loads(part) for part in there), key=json_order)


def parts_of(policy: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    parts = {"": True}
    if policy == "document":
        parts |= {json.dumps(key): one for key, one in value.items()}
    else:
        parts |= {json.dumps(one): True for one in value}
    return parts


def json_order(value: Any) -> tuple[int, Any]:
    """Texts before numbers, as PostgreSQL orders jsonb."""
    return (0, value) if isinstance(value, str) else (1, value)
