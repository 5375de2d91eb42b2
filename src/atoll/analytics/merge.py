"""Puts the nodes' answers together: DuckDB over Arrow, in memory, without files, network or extensions.

What runs is PostgreSQL's SQL, translated; where types decide what an operator means (7 / 2 is 3), the types
of the answers are looked at first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import duckdb
import pyarrow as pa
from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from atoll.analytics.columns import arrow_column
from atoll.analytics.plan import Plan
from atoll.analytics.question import Answer
from atoll.domain.errors import DataError

MEMORY = "512MB"
SETTINGS = (
    "set enable_external_access = false",
    "set autoinstall_known_extensions = false",
    "set autoload_known_extensions = false",
    "set python_enable_replacements = false",
    f"set memory_limit = '{MEMORY}'",
    "set threads = 2",
    "set timezone = 'UTC'",
    "set lock_configuration = true",
)
Answers = Mapping[str, Sequence[Answer]]


class Merge:
    """One merge; `stop` may be called from another thread."""

    def __init__(self, plan: Plan, answers: Answers) -> None:
        self._plan = plan
        self._answers = answers
        self._duck = duckdb.connect(":memory:")

    def stop(self) -> None:
        with contextlib.suppress(duckdb.Error):
            self._duck.interrupt()

    def run(self) -> pa.Table:
        """The result, its columns named as PostgreSQL would name them."""
        try:
            with self._duck:
                return self._run()
        except duckdb.Error as error:
            raise DataError(
                "question-not-merged",
                "could not put the answers together",
                detail=f"{str(error).strip().splitlines()[0]}.",
                hint="Ask one node alone with --on node=NAME, or a simpler question.",
            ) from error

    def _run(self) -> pa.Table:
        parts = {part: part_table(answers) for part, answers in self._answers.items()}
        if self._plan.way == "whole":
            return _named(parts["p0"], self._names())
        for setting in SETTINGS:
            self._duck.execute(setting)
        if self._plan.way == "union":
            table = self._select(parts, _union(self._plan, parts["p0"].num_columns))
        else:
            parts = {part: _named(table, self._columns(part)) for part, table in parts.items()}
            table = self._select(parts, translate(self._plan.merge, parts))
        return _named(table, self._names() or tuple(table.column_names))

    def _select(self, parts: Mapping[str, pa.Table], text: str) -> pa.Table:
        for part, table in parts.items():
            self._duck.register(part, table)
        return self._duck.sql(text).to_arrow_table()

    def _columns(self, part: str) -> tuple[str, ...]:
        return tuple(name for name, _ in self._answers[part][0].columns)

    def _names(self) -> tuple[str, ...]:
        if self._plan.names or self._plan.way in ("groups", "moved"):
            return self._plan.names
        names = self._columns("p0")
        return names[: len(names) - self._plan.hidden]


def part_table(answers: Sequence[Answer]) -> pa.Table:
    """The rows of all nodes that answered; columns are called o0, o1, … since names may repeat."""
    kinds = answers[0].columns
    oids = [_common({answer.columns[n][1] for answer in answers}) for n in range(len(kinds))]
    columns = [
        arrow_column(oid, [chunk for answer in answers for chunk in answer.values[n].chunks])
        for n, oid in enumerate(oids)
    ]
    return pa.Table.from_arrays(columns, [f"o{n}" for n in range(len(kinds))])


def _common(oids: set[int]) -> int:
    """One type for a column whose type differs between nodes."""
    if len(oids) == 1:
        return next(iter(oids))
    if oids <= {20, 21, 23}:
        return 20
    if oids <= {20, 21, 23, 1700}:
        return 1700
    return 701 if oids <= {20, 21, 23, 700, 701, 1700} else 25


def _named(table: pa.Table, names: Sequence[str]) -> pa.Table:
    return table.rename_columns(list(names)) if names else table


def _union(plan: Plan, count: int) -> str:
    shown = [f"o{n}" for n in range(count - plan.hidden)]
    distinct = "distinct " if plan.is_distinct else ""
    text = f"select {distinct}{', '.join(shown)} from p0"  # noqa: S608 (names of our own)
    terms = [
        f"o{order.column if order.column >= 0 else count + order.column}"
        f" {'desc' if order.descends else 'asc'} nulls {'first' if order.nulls_first else 'last'}"
        for order in plan.orders
    ]
    text += f" order by {', '.join(terms)}" if terms else ""
    text += f" limit {plan.limit}" if plan.limit is not None else ""
    return text + (f" offset {plan.offset}" if plan.offset else "")


def translate(text: str, parts: Mapping[str, pa.Table]) -> str:
    """The same question for DuckDB. Division and sums of integers stay integers, as PostgreSQL has them."""
    tree = parse_one(text, read="postgres")
    schema: dict[str, object] = {
        part: {field.name: _duck_type(field.type) for field in table.schema} for part, table in parts.items()
    }
    try:
        typed = annotate_types(
            qualify(tree.copy(), schema=schema, dialect="postgres"), schema=schema, dialect="postgres"
        )
    except SqlglotError:
        typed = tree
    for node in reversed(list(typed.walk())):
        _keep_integer(node)
    return typed.sql(dialect="duckdb", identify=True)


def _keep_integer(node: exp.Expr) -> None:
    if isinstance(node, exp.Div) and all(_is_integer(side) for side in (node.left, node.right)):
        whole = exp.IntDiv(this=node.this, expression=node.expression)
        whole.type = node.type
        node.replace(whole)
    elif isinstance(node, exp.Sum) and _is_integer(node.this):
        while isinstance(node.parent, exp.Filter | exp.Window):
            node = node.parent
        node.replace(exp.cast(node.copy(), "bigint"))


def _is_integer(node: exp.Expr) -> bool:
    return node.unnest().is_type(*exp.DataType.INTEGER_TYPES)


def _duck_type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return {16: "smallint", 32: "int", 64: "bigint"}[kind.bit_width]
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision}, {kind.scale})"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "timestamptz" if kind.tz else "timestamp"
    return "text"
