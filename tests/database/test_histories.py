"""Random histories on three nodes that hear of each other in any order, cut, late and twice: all end the same.

Every step is compared with an oracle that knows no SQL. Clocks stand still, run apart and tie as the history
says, so that what hypothesis prints replays exactly. ATOLL_EXAMPLES asks for more (make fuzz).
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.fix_nodes import Nodes
from support.history import Delete, Insert, Merge, Move, Statement, Subject, Truncate, Update, World, longest
from support.oracle import Table

EXAMPLES = int(os.environ.get("ATOLL_EXAMPLES", "40"))

PLAIN = Subject("plain", ("id",), {"id": "int", "x": "int", "y": "text"}, Table({"x": "lww", "y": "lww"}))
MEMBER = Subject(
    "member",
    ("id",),
    {"id": "int", "email": "text", "slot": "int", "nick": "text", "points": "int"},
    Table(
        {"email": "lww", "slot": "lww", "nick": "lww", "points": "counter"}, uniques=(("email",), ("slot",))
    ),
)
STOCK = Subject(
    "stock",
    ("shelf", "item"),
    {
        "shelf": "int",
        "item": "text",
        "note": "text",
        "qty": "bigint",
        "hi": "int",
        "lo": "int",
        "born": "text",
        "tags": "jsonb",
        "doc": "jsonb",
        "low": "int",
        "high": "int",
        "best": "text",
    },
    Table(
        {
            "note": "lww",
            "qty": "counter",
            "hi": "max",
            "lo": "min",
            "born": "first",
            "tags": "set",
            "doc": "document",
            "low": "lww",
            "high": "lww",
            "best": longest,
        },
        groups=(("low", "high"),),
    ),
)
MAKE = """
    create table plain (id int primary key, x int, y text);
    create table member (id int primary key, email text unique, slot int unique, nick text, points int not null);
    create function longest(a text, b text) returns text language sql immutable
    return case when (length(a), a collate "C") > (length(b), b collate "C") then a else b end;
    create table stock (shelf int, item text, note text, qty bigint, hi int, lo int, born text, tags jsonb,
        doc jsonb, low int not null, high int not null, best text, check (low <= high), primary key (shelf, item))
"""
RULES = {
    "plain": "{}",
    "member": '{"points": "counter"}',
    "stock": """{"qty": "counter", "hi": "max", "lo": "min", "born": "first", "tags": "set", "doc": "document",
                 "low": "group:range", "high": "group:range", "best": "function:public.longest"}""",
}

small = st.integers(0, 3)
words = st.sampled_from(["a", "bb", "ccc", None])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "x": st.one_of(st.none(), small),
    "y": words,
    "email": words,
    "slot": st.one_of(st.none(), small),
    "nick": words,
    "points": small,
    "note": words,
    "qty": st.one_of(st.none(), small),
    "hi": st.one_of(st.none(), small),
    "lo": st.one_of(st.none(), small),
    "born": words,
    "tags": st.one_of(st.none(), st.lists(st.sampled_from(["r", "s", 1, 2]), max_size=3)),
    "doc": st.one_of(
        st.none(), st.dictionaries(st.sampled_from(["", "k"]), st.sampled_from([1, None, {"n": None}]))
    ),
    "low": st.integers(0, 2),
    "high": st.integers(2, 4),
    "best": words,
}
CHANGES: dict[str, st.SearchStrategy[tuple[str, Any]]] = {
    "points": st.tuples(st.just("+"), st.integers(-2, 2)),
    "qty": st.one_of(st.tuples(st.just("+"), st.integers(-2, 2)), st.tuples(st.just("="), st.none())),
    "slot": st.tuples(st.just("+"), st.just(1)),
    "tags": st.one_of(
        st.tuples(st.just("add"), st.lists(st.sampled_from(["r", "t"]), min_size=1, max_size=2)),
        st.tuples(st.just("drop"), st.sampled_from(["r", "s"])),
    ),
    "doc": st.tuples(st.just("put"), st.dictionaries(st.sampled_from(["k", "l"]), small, min_size=1)),
}
CLOCKS = st.sampled_from([1, 1, 1, 2, 3, 50, 10**6])


def rows_of(subject: Subject) -> st.SearchStrategy[Any]:
    return st.tuples(
        keys_of(subject), st.fixed_dictionaries({name: VALUES[name] for name in subject.table.columns})
    )


def keys_of(subject: Subject) -> st.SearchStrategy[Any]:
    return st.tuples(small, st.sampled_from(["i", "j"])) if len(subject.keys) == 2 else st.tuples(small)


def sets_of(subject: Subject) -> st.SearchStrategy[Any]:
    def one(name: str) -> st.SearchStrategy[Any]:
        plain = st.tuples(st.just("="), VALUES[name])
        return st.tuples(st.just(name), st.one_of(plain, CHANGES[name]) if name in CHANGES else plain)

    names = st.lists(st.sampled_from(list(subject.table.columns)), min_size=1, max_size=3, unique=True)
    return names.flatmap(lambda some: st.tuples(*(one(name) for name in some)))


def statements(subject: Subject) -> st.SearchStrategy[Statement]:
    def several(of: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
        return st.lists(of, min_size=1, max_size=most).map(tuple)

    keys, rows = several(keys_of(subject), 4), several(rows_of(subject))
    distinct = st.lists(rows_of(subject), min_size=1, max_size=3, unique_by=lambda row: str(row[0])).map(
        tuple
    )
    clash = st.sampled_from(["error", "nothing", "update"])
    return st.one_of(
        st.builds(Insert, distinct, clash),
        st.builds(Insert, rows, clash),
        st.builds(Update, keys, sets_of(subject)),
        st.builds(Update, keys, sets_of(subject)),
        st.builds(Delete, keys),
        st.builds(Move, keys, st.sampled_from([-1, 1, 2])),
        st.builds(
            Merge, distinct, several(keys_of(subject), 2), st.sampled_from(list(subject.table.columns))
        ),
        st.builds(Truncate),
    )


def histories(subject: Subject) -> st.SearchStrategy[list[Any]]:
    place = st.integers(0, 2)
    write = st.tuples(st.just("do"), place, CLOCKS, statements(subject))
    picks = st.lists(st.integers(0, 7), min_size=1, max_size=4)
    hear = st.tuples(st.just("deliver"), place, picks, st.booleans(), st.integers(0, 2))
    return st.lists(st.one_of(write, write, hear), min_size=2, max_size=14)


def play(nodes: Nodes, subject: Subject, history: list[Any], seed: int) -> None:
    world = World(nodes, subject)
    for what, *details in history:
        getattr(world, what)(*details)
    chance = random.Random(seed)
    world.finish(lambda changes: chance.sample(changes, len(changes)))


@pytest.fixture(scope="module")
def sharing(lasting_nodes: Nodes) -> Nodes:
    first = lasting_nodes[0]
    first.run(MAKE)
    for name, rules in RULES.items():
        first.share(name, rules)
    function = first.value("select pg_get_functiondef('longest'::regproc)")
    for other in lasting_nodes[1:]:
        other.run(function)
    lasting_nodes.sync()
    for node in lasting_nodes:
        assert node.parked() == []
    return lasting_nodes


pytestmark = pytest.mark.timeout(300 + EXAMPLES * 5)

limits = settings(
    max_examples=EXAMPLES,
    derandomize="ATOLL_EXAMPLES" not in os.environ,
    deadline=None,
    report_multiple_bugs=False,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
    ],
)


@limits
@given(history=histories(PLAIN), seed=st.integers(0, 99))
@pytest.mark.slow
def test_rows_of_plain_columns_end_the_same_everywhere(sharing: Nodes, history: list[Any], seed: int) -> None:
    play(sharing, PLAIN, history, seed)


@limits
@given(history=histories(MEMBER), seed=st.integers(0, 99))
@pytest.mark.slow
def test_rows_with_unique_columns_end_the_same_everywhere(
    sharing: Nodes, history: list[Any], seed: int
) -> None:
    play(sharing, MEMBER, history, seed)


@limits
@given(history=histories(STOCK), seed=st.integers(0, 99))
def test_rows_with_every_policy_end_the_same_everywhere(
    sharing: Nodes, history: list[Any], seed: int
) -> None:
    play(sharing, STOCK, history, seed)
