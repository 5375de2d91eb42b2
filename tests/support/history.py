"""Random histories: statements as values that know their SQL and their effect, and who hears of what when.

`World` plays a history on real nodes and on the oracle side by side, and compares them after each step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, LiteralString, Protocol, cast

import psycopg
from psycopg.types.json import Jsonb

from support.fix_nodes import Change, Node, Nodes
from support.oracle import Key, Oracle, Row, Table, View, Write, json_order

Rows = dict[Key, Row]
Refused = (psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
LAST_CLOCK = 10**9


@dataclass(frozen=True)
class Subject:
    """A table of the histories: its name, its key, and what the oracle knows of it."""

    name: str
    keys: tuple[str, ...]
    types: dict[str, str]
    table: Table

    @property
    def columns(self) -> list[str]:
        return [*self.keys, *self.table.columns]

    def where(self, keys: Sequence[Key]) -> tuple[str, list[Any]]:
        one = "(" + " and ".join(f"t.{name} = %s" for name in self.keys) + ")"
        return " or ".join([one] * len(keys)) or "false", [part for key in keys for part in key]

    def bound(self, column: str, value: Any) -> Any:
        return Jsonb(value) if value is not None and self.types[column] == "jsonb" else value


class Statement(Protocol):
    def sql(self, subject: Subject) -> tuple[str, list[Any]]: ...

    def effect(self, subject: Subject, rows: Rows) -> Rows: ...


@dataclass(frozen=True)
class Insert:
    rows: tuple[tuple[Key, Row], ...]
    clash: str = "error"

    def sql(self, subject: Subject) -> tuple[str, list[Any]]:
        line = "(" + ", ".join(f"%s::{subject.types[name]}" for name in subject.columns) + ")"
        values = [
            subject.bound(name, value)
            for key, row in self.rows
            for name, value in zip(
                subject.columns, [*key, *(row[name] for name in subject.table.columns)], strict=True
            )
        ]
        query = f"insert into {subject.name} as t ({', '.join(subject.columns)}) values " + ", ".join(
            [line] * len(self.rows)
        )
        if self.clash == "nothing":
            query += " on conflict do nothing"
        elif self.clash == "update":
            sets = ", ".join(
                f"{name} = t.{name} + excluded.{name}" if policy == "counter" else f"{name} = excluded.{name}"
                for name, policy in subject.table.columns.items()
            )
            query += f" on conflict ({', '.join(subject.keys)}) do update set {sets}"
        return query, values

    def effect(self, subject: Subject, rows: Rows) -> Rows:
        oracle = Oracle(subject.table)
        for key, row in self.rows:
            if self.clash == "update" and key in rows:
                new = {
                    name: plus(rows[key][name], row[name]) if policy == "counter" else row[name]
                    for name, policy in subject.table.columns.items()
                }
                rows = rows | {key: new}
            elif self.clash == "nothing" and (
                key in rows or any(oracle.collide(row, other) for other in rows.values())
            ):
                continue
            else:
                rows = rows | {key: dict(row)}
        return rows


@dataclass(frozen=True)
class Update:
    """Sets, adds to, or changes a part of columns: {column: (how, value)}."""

    keys: tuple[Key, ...]
    sets: tuple[tuple[str, tuple[str, Any]], ...]

    def sql(self, subject: Subject) -> tuple[str, list[Any]]:
        items, values = [], []
        for name, (how, value) in self.sets:
            kind = subject.types[name]
            form = {
                "=": f"%s::{kind}",
                "+": f"t.{name} + %s",
                "put": f"coalesce(t.{name}, '{{}}') || %s",
                "add": f"coalesce(t.{name}, '[]') || %s",
                "drop": f"t.{name} - %s::text",
            }[how]
            items.append(f"{name} = {form}")
            values.append(value if how in ("+", "drop") else subject.bound(name, value))
        where, keys = subject.where(self.keys)
        return f"update {subject.name} t set {', '.join(items)} where {where}", [*values, *keys]

    def effect(self, subject: Subject, rows: Rows) -> Rows:
        rows = copy.deepcopy(rows)
        for key in rows.keys() & set(self.keys):
            rows[key] |= {name: changed(rows[key][name], how, value) for name, (how, value) in self.sets}
        return rows


@dataclass(frozen=True)
class Move:
    """Moves rows to another key: the key's first column grows by so many."""

    keys: tuple[Key, ...]
    by: int

    def sql(self, subject: Subject) -> tuple[str, list[Any]]:
        where, keys = subject.where(self.keys)
        first = subject.keys[0]
        return f"update {subject.name} t set {first} = {first} + %s where {where}", [self.by, *keys]

    def effect(self, subject: Subject, rows: Rows) -> Rows:
        moved = rows.keys() & set(self.keys)
        return {key: row for key, row in rows.items() if key not in moved} | {
            (key[0] + self.by, *key[1:]): rows[key] for key in moved
        }


@dataclass(frozen=True)
class Delete:
    keys: tuple[Key, ...]

    def sql(self, subject: Subject) -> tuple[str, list[Any]]:
        where, keys = subject.where(self.keys)
        return f"delete from {subject.name} t where {where}", keys

    def effect(self, subject: Subject, rows: Rows) -> Rows:
        return {key: row for key, row in rows.items() if key not in self.keys}


@dataclass(frozen=True)
class Merge:
    """Keys in `gone` are deleted, other rows that are there get the value, the rest is inserted."""

    rows: tuple[tuple[Key, Row], ...]
    gone: tuple[Key, ...]
    column: str

    def sql(self, subject: Subject) -> tuple[str, list[Any]]:
        insert, values = Insert(self.rows).sql(subject)
        source = insert[insert.index("values") :]
        gone, keys = subject.where(self.gone)
        on = " and ".join(f"t.{name} = s.{name}" for name in subject.keys)
        query = (
            f"merge into {subject.name} t using ({source}) s ({', '.join(subject.columns)}) on {on}"
            f" when matched and ({gone}) then delete"
            f" when matched then update set {self.column} = s.{self.column}"
            f" when not matched then insert ({', '.join(subject.columns)})"
            f" values ({', '.join('s.' + name for name in subject.columns)})"
        )
        return query, [*values, *keys]

    def effect(self, subject: Subject, rows: Rows) -> Rows:
        rows = copy.deepcopy(rows)
        for key, row in self.rows:
            if key not in rows:
                rows[key] = dict(row)
            elif key in self.gone:
                del rows[key]
            else:
                rows[key][self.column] = row[self.column]
        return rows


@dataclass(frozen=True)
class Truncate:
    def sql(self, subject: Subject) -> tuple[str, list[Any]]:
        return f"truncate {subject.name}", []

    def effect(self, subject: Subject, rows: Rows) -> Rows:
        return {}


def plus(a: Any, b: Any) -> Any:
    return None if a is None or b is None else a + b


def changed(old: Any, how: str, value: Any) -> Any:
    match how:
        case "=":
            return value
        case "+":
            return plus(old, value)
        case "put":
            return (old or {}) | value
        case "add":
            return (old or []) + value
        case _:
            return None if old is None else [one for one in old if one != value]


def longest(a: str, b: str) -> str:
    """The merge function of the histories; its SQL twin is public.longest."""
    return max(a, b, key=lambda one: (len(one), one))


class World:
    """Real nodes, and beside each of them the set of writes that it has heard of."""

    def __init__(self, nodes: Nodes, subject: Subject) -> None:
        self.nodes, self.subject = nodes, subject
        self.oracle = Oracle(subject.table)
        self.heard: list[dict[tuple[int, int], list[Write]]] = [{} for _ in nodes]
        self.inbox: list[list[Change]] = [[] for _ in nodes]
        self.writes: dict[tuple[int, int], list[Write]] = {}
        self.past: list[Change] = []
        for node in nodes:
            self.wipe(node)

    def wipe(self, node: Node) -> None:
        side = node.apply.execute(
            "select side from atoll.local_table where name = %s", [f"public.{self.subject.name}"]
        )
        tables = ["atoll.change", "atoll.conflict", "atoll.expected", "atoll.parked", self.subject.name]
        quoted = ", ".join([*tables, *(f'atoll_side."{row[0]}"' for row in side.fetchall())])
        node.changes()
        node.apply.execute(cast("LiteralString", f"truncate {quoted}"))

    def view(self, place: int) -> View:
        return self.oracle.look(write for writes in self.heard[place].values() for write in writes)

    def do(self, place: int, clock: int, statement: Statement) -> None:
        """A statement of an application on one node: its effect, and what the log says of it."""
        node, before = self.nodes[place], self.view(place)
        node.clock(clock)
        query, values = statement.sql(self.subject)
        try:
            node.run(query, *values)
            after = self.canonical(statement.effect(self.subject, before.rows))
        except Refused:
            after = before.rows
        lost = before.aside if isinstance(statement, Truncate) else {}
        self.note(place, before, after, lost)
        self.check(place, statement)

    def canonical(self, rows: Rows) -> Rows:
        """Sets without repetition and in order, as a node keeps them."""
        sets = [name for name, policy in self.subject.table.columns.items() if policy == "set"]
        return {
            key: row | {name: row[name] and sorted(set(row[name]), key=json_order) for name in sets}
            for key, row in rows.items()
        }

    def note(self, place: int, before: View, after: Rows, lost: Rows) -> None:
        wanted = {
            key: "update" for key in before.rows.keys() & after.keys() if before.rows[key] != after[key]
        }
        wanted |= dict.fromkeys(after.keys() - before.rows.keys(), "insert")
        wanted |= dict.fromkeys(before.rows.keys() - after.keys() | lost.keys(), "delete")
        found: dict[Key, str] = {}
        for change in self.nodes[place].changes():
            writes = []
            for key in self.keys_of(change):
                kind = {"I": "insert", "U": "update", "D": "delete"}[change.op]
                assert key not in found, f"{key} is in two changes of one statement"
                found[key] = kind
                assert wanted.get(key) == kind, f"{kind} of {key} was logged; it should be {wanted.get(key)}"
                writes.append(self.write(kind, key, change.at, before, after))
            self.writes[change.origin, change.seq] = self.heard[place][change.origin, change.seq] = writes
            self.past.append(change)
            for other, inbox in enumerate(self.inbox):
                if other != place:
                    inbox.append(change)
        assert found == wanted

    def write(self, kind: Any, key: Key, stamp: int, before: View, after: Rows) -> Write:
        seen = before.seen.get(key)
        assert seen is None or stamp > max(seen.last, seen.death), (
            "a stamp has to be later than all that the row has"
        )
        epoch = seen.epoch if seen else 0
        if kind == "delete":
            return Write(kind, key, stamp)
        if kind == "insert":
            if seen and not seen.lives:
                epoch = seen.death or epoch
            return Write(kind, key, stamp, after[key], epoch=epoch)
        old, new = before.rows[key], after[key]
        names = self.subject.table.together(name for name in new if new[name] != old[name])
        return Write(
            kind, key, stamp, {name: new[name] for name in names}, {name: old[name] for name in names}, epoch
        )

    def keys_of(self, change: Change) -> list[Key]:
        columns = ", ".join(f"(%s::{self.subject.types[name]}[])" for name in self.subject.keys)
        query = f"select * from unnest({columns})"
        literals = change.vals[: len(self.subject.keys)]
        found = self.nodes[0].apply.execute(cast("LiteralString", query), literals)
        return [tuple(row) for row in found.fetchall()]

    def deliver(self, place: int, picks: Sequence[int], keep: bool, cut: int) -> None:
        """Some of what is on its way arrives, in the order of `picks`, perhaps cut, perhaps to come again."""
        inbox, pieces = self.inbox[place], []
        for pick in picks:
            if inbox:
                change = inbox[pick % len(inbox)] if keep else inbox.pop(pick % len(inbox))
                pieces += self.nodes[place].split(change, cut) if cut else [change]
        self.receive(place, pieces)

    def receive(self, place: int, changes: Sequence[Change]) -> None:
        node = self.nodes[place]
        before, waiting = set(self.heard[place]), self.parked(place)
        node.receive(changes)
        for change in changes:
            known = {write.key: write for write in self.writes[change.origin, change.seq % 10**9]}
            self.heard[place][change.origin, change.seq] = [known[key] for key in self.keys_of(change)]
        for name in self.parked(place) - waiting:
            if name[:2] not in before:
                self.heard[place].pop(name[:2], None)
        self.check(place, changes)

    def parked(self, place: int) -> set[tuple[int, int, int]]:
        """What waits on a node: whose, which, and how often it was tried."""
        query = "select origin, seq, attempts from atoll.parked"
        return set(self.nodes[place].apply.execute(query).fetchall())

    def check(self, place: int, cause: object) -> None:
        found = self.rows(place)
        wanted = self.view(place).rows
        assert found == wanted, f"node {place + 1} after {cause}"

    def rows(self, place: int) -> Rows:
        query = f"select {', '.join(self.subject.columns)} from {self.subject.name}"
        count = len(self.subject.keys)
        return {
            tuple(row[:count]): dict(zip(self.subject.columns[count:], row[count:], strict=True))
            for row in self.nodes[place].run(query)
        }

    def finish(self, order: Callable[[list[Change]], list[Change]]) -> None:
        """Everything arrives everywhere, some of it again; then all nodes hold what the oracle says."""
        for place, node in enumerate(self.nodes):
            node.clock(LAST_CLOCK)
            self.receive(place, order(self.inbox[place]))
            self.inbox[place] = []
            node.retry()
            assert node.parked() == []
            self.heard[place].update(self.writes)  # what had been parked is merged now
            self.receive(place, [change for change in order(self.past) if change.origin != node.number][:3])
        wanted = self.oracle.look(write for writes in self.writes.values() for write in writes)
        for place in range(len(self.nodes)):
            assert self.rows(place) == wanted.rows, f"node {place + 1} in the end"
        self.nodes.same(f"public.{self.subject.name}")
