"""Joining states of a row: the order, the grouping and the repetition of what is joined make no difference.

The states are made up here, also such as no honest clock makes (two values under one stamp), and joined by
the database's own function; what writes come to is what the oracle says.
"""

from __future__ import annotations

import json
import os
import random
from functools import reduce
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from support.fix_postgres import DatabaseMaker
from support.oracle import Oracle, Table, Write, parts_of

EXAMPLES = int(os.environ.get("ATOLL_EXAMPLES", "150"))
POLICIES = {
    "qty": {"p": "counter", "type": "bigint"},
    "hi": {"p": "max", "type": "integer"},
    "lo": {"p": "min", "type": "double precision"},
    "born": {"p": "first", "type": "text"},
    "tags": {"p": "set", "type": "jsonb"},
    "doc": {"p": "document", "type": "jsonb"},
    "best": {"p": "function", "type": "text", "f": "public.longest"},
}
TABLE = Table(
    {"note": "lww", "qty": "counter", "hi": "max", "born": "first", "tags": "set", "doc": "document"}
)

limits = settings(
    max_examples=EXAMPLES,
    derandomize="ATOLL_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
stamps = st.builds(lambda time, node: time << 16 | node, st.integers(1, 6), st.integers(1, 3))
texts = st.sampled_from(["a", "bb", "B", ""])
Session = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def session(make_lasting_database: DatabaseMaker) -> Any:
    with psycopg.connect(make_lasting_database().conninfo(), autocommit=True) as opened:
        opened.execute(
            "create function public.longest(a text, b text) returns text language sql immutable"
            ' return case when (length(a), a collate "C") > (length(b), b collate "C") then a else b end'
        )
        yield opened


def join(session: Session, *states: Any) -> Any:
    def two(a: Any, b: Any) -> Any:
        query = "select atoll.join_state(%s, %s, %s)"
        return session.execute(query, [Jsonb(POLICIES), Jsonb(a), Jsonb(b)]).fetchall()[0][0]

    return reduce(two, states)


def entries(value: st.SearchStrategy[Any], keys: list[str]) -> st.SearchStrategy[Any]:
    entry = st.one_of(st.tuples(stamps).map(list), st.tuples(stamps, value).map(list))
    return st.dictionaries(st.sampled_from(keys), entry, max_size=3)


KEPT = {
    "qty": st.dictionaries(
        st.sampled_from("123"), st.tuples(stamps, st.sampled_from(["1", "-2", "5"])).map(list)
    ),
    "born": st.tuples(stamps, texts).map(list),
    "tags": entries(st.just(True), ["", '"a"', "1", "1.0"]),
    "doc": entries(st.sampled_from([1, None, {"n": None}]), ["", '"k"', '""']),
}
PLAIN = {
    "note": st.one_of(st.none(), texts),
    "hi": st.sampled_from(["1", "2", "10"]),
    "lo": st.sampled_from(["0", "-0", "NaN", "1.5"]),
    "best": texts,
}


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    state: dict[str, Any] = {"t": {}, "v": {}, "x": {}}
    for name in "bde":
        if draw(st.booleans()):
            state[name] = draw(stamps)
    for name in [*KEPT, *PLAIN]:
        if draw(st.booleans()):
            state["t"][name] = draw(stamps)
            if name in KEPT:
                state["x"][name] = draw(KEPT[name])
            else:
                state["v"][name] = draw(PLAIN[name])
    return state


@limits
@given(a=states(), b=states())
def test_joining_is_commutative(session: Session, a: Any, b: Any) -> None:
    assert join(session, a, b) == join(session, b, a)


@limits
@given(a=states(), b=states(), c=states())
def test_joining_is_associative(session: Session, a: Any, b: Any, c: Any) -> None:
    assert join(session, join(session, a, b), c) == join(session, a, join(session, b, c))


@limits
@given(a=states(), b=states())
def test_joining_again_changes_nothing(session: Session, a: Any, b: Any) -> None:
    both = join(session, a, b)
    assert join(session, both, both) == both
    assert join(session, both, a) == both
    assert join(session, b, both) == both


def delta(write: Write) -> dict[str, Any]:
    """A write as what a row's state joins with."""
    if write.kind == "delete":
        return {"d": write.stamp}
    found: dict[str, Any] = {"t": dict.fromkeys(write.row, write.stamp), "v": {}, "x": {}}
    if write.kind == "insert":
        found["b"] = write.stamp
    if write.epoch:
        found["e"] = write.epoch
    for name, value in write.row.items():
        policy = TABLE.columns[name]
        if policy == "counter":
            found["x"][name] = {} if value is None else {str(write.node): [write.stamp, str(value)]}
        elif policy == "first":
            if value is not None:
                found["x"][name] = [write.stamp, value]
        elif policy in ("set", "document"):
            found["x"][name] = {
                part: [write.stamp, one] for part, one in parts_of(str(policy), value).items()
            }
        else:
            found["v"][name] = None if value is None else str(value)
    return found


@st.composite
def writes(draw: st.DrawFn) -> list[Write]:
    """Writes of one row, each under a stamp of its own: births, deaths, and updates of plain columns."""
    made = []
    for stamp in draw(st.lists(stamps, unique=True, min_size=1, max_size=7)):
        kind = draw(st.sampled_from(["insert", "update", "delete"]))
        row: dict[str, Any] = {}
        if kind == "insert":
            row = {
                "note": draw(st.one_of(st.none(), texts)),
                "qty": draw(st.one_of(st.none(), st.integers(-3, 3))),
                "hi": draw(st.integers(0, 3)),
                "born": draw(st.one_of(st.none(), texts)),
                "tags": draw(st.lists(texts, unique=True, max_size=2)),
                "doc": draw(st.dictionaries(texts, st.integers(0, 2), max_size=2)),
            }
        elif kind == "update":
            row = {"note": draw(texts), "hi": draw(st.integers(0, 5))}
        made.append(Write(kind, (1,), stamp, row, epoch=draw(st.sampled_from([0, 0, 2 << 16 | 1]))))
    return made


@limits
@given(history=writes(), seed=st.integers(0, 99))
def test_what_writes_come_to_is_what_the_oracle_says(
    session: Session, history: list[Write], seed: int
) -> None:
    chance = random.Random(seed)
    order = chance.sample(history, len(history)) + chance.sample(history, chance.randint(0, len(history)))
    state = join(session, {"t": {}, "v": {}, "x": {}}, *(delta(write) for write in order))
    wanted = Oracle(TABLE).look(history).seen[(1,)]
    (alive,) = session.execute("select atoll.is_alive(%s)", [Jsonb(state)]).fetchall()[0]
    assert alive == wanted.lives
    for name, policy in TABLE.columns.items():
        if name in POLICIES and policy != "max":
            query = "select atoll.shown(%s, %s)"
            kept = Jsonb(state["x"][name]) if name in state["x"] else None
            shown = session.execute(query, [Jsonb(POLICIES[name]), kept]).fetchall()[0][0]
            value = (
                json.loads(shown) if shown is not None and policy in ("set", "document", "counter") else shown
            )
        else:
            value = state["v"].get(name)
            value = int(value) if name == "hi" and value is not None else value
        assert value == wanted.values[name], name
