"""An oracle for rollups in plain Python, from the description and not from the SQL: rows by window."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from support.fix_nodes import Node

ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)
COLUMNS = (
    "id integer primary key, taken_at timestamptz, machine text, temp float8, power numeric, visitor integer"
)
MEASURES = (
    '{"temp": ["avg", "max", "min", "p50", "p95"], "power": ["sum", "count"], "visitor": ["distinct", "sum"]}'
)
RAW = "select taken_at, machine, temp, power, visitor from readings where isfinite(taken_at)"
SHOWN = (
    "bucket, machine, n, temp_avg, temp_max, temp_min, temp_p50, temp_p95, power_count, power_sum,"
    " visitor_distinct, visitor_sum"
)
Row = tuple[Any, ...]


def rollup(node: Node, bucket: str = "1 min") -> str:
    query = "select atoll.rollup('readings', %s, 'taken_at', '{machine}', %s)"
    return str(node.value(query, bucket, MEASURES))


def raw(node: Node) -> list[Row]:
    return node.run(RAW)


def shown(node: Node, source: str = "readings_1min") -> list[Row]:
    return node.run(f"select {SHOWN} from {source} where n is not null")


def own(node: Node) -> list[Row]:
    return shown(node, f"(select * from readings_1min_by_node where node = {node.number}) v")


def check(found: Iterable[Row], rows: Sequence[Row], width: timedelta = timedelta(minutes=1)) -> None:
    """What a rollup shows is what the rows come to."""
    groups: dict[tuple[datetime, str | None], list[Row]] = {}
    for at, machine, *values in rows:
        bucket = ORIGIN + (at - ORIGIN) // width * width
        groups.setdefault((bucket, machine), []).append(tuple(values))
    seen = {(bucket, machine): tuple(values) for bucket, machine, *values in found}
    assert seen.keys() == groups.keys()
    for group, members in groups.items():
        _check_group(group, seen[group], members)


def _check_group(group: object, shown: Row, members: Sequence[Row]) -> None:
    n, avg, most, least, p50, p95, power_count, power_sum, distinct, visitor_sum = shown
    temps = sorted((t for t, _, _ in members if t is not None), key=lambda t: (math.isnan(t), t))
    powers = [p for _, p, _ in members if p is not None]
    visitors = [v for _, _, v in members if v is not None]
    assert n == len(members), group
    assert power_count == len(powers), group
    assert _same(power_sum, _total(powers)), group
    assert visitor_sum == (sum(visitors) if visitors else None), group
    assert distinct == len(set(visitors)), group
    assert _same(most, temps[-1] if temps else None), group
    assert _same(least, temps[0] if temps else None), group
    if not temps:
        assert (avg, p50, p95) == (None, None, None), group
        return
    mean = math.nan if {math.inf, -math.inf} <= set(temps) else sum(temps) / len(temps)
    assert _same(avg, mean), (group, avg, mean)
    for share, value in ((0.5, p50), (0.95, p95)):
        place = share * (len(temps) - 1)
        low, high = temps[math.floor(place)], temps[math.ceil(place)]
        if math.isfinite(low) and math.isfinite(high):
            assert low - abs(low) * 0.0101 <= value <= high + abs(high) * 0.0101, (group, share, value)
        elif low == high:
            assert value == low, (group, share, value)


def _total(values: Sequence[Decimal]) -> Decimal | None:
    return sum(values, Decimal(0)) if values else None


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None or isinstance(one, Decimal):
        return one == other or (one is not None and other is not None and one.is_nan() and other.is_nan())
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
