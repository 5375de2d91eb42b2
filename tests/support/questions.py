"""Questions made up at random from what a select may hold: groups, aggregates, conditions, orders, bounds."""

from __future__ import annotations

import random

KEYS = ["shop", "product", "is_paid", "qty % 3", "length(note)"]
KEYS += ["date_trunc('month', day)", "coalesce(note, 'none')"]
NUMBERS = ["qty", "big / 1000003", "price", "qty * 2 - 1", "abs(qty)", "product + qty", "round(price)"]
ANY = [*NUMBERS, "shop", "note", "at", "day"]
CONDITIONS = [
    "qty > 0",
    "is_paid",
    "not is_paid",
    "note is null",
    "shop <> 'north'",
    "price between 10 and 50000",
    "product in (1, 2, 3)",
    "day >= date '2026-06-01'",
    "false",
    "product in (select product from product where kind = 'fruit')",
]


def question(rng: random.Random) -> str:
    return _groups(rng) if rng.random() < 0.7 else _rows(rng)


def _groups(rng: random.Random) -> str:
    keys = rng.sample(KEYS, rng.choice([0, 1, 1, 2]))
    found = [_aggregate(rng) for _ in range(rng.randrange(1, 4))]
    if rng.random() < 0.3:
        found.append(f"{_aggregate(rng, NUMBERS)} + {_aggregate(rng, NUMBERS)}")
    text = f"select {', '.join([*keys, *found])} from sale s{_where(rng)}"
    if keys:
        text += " group by " + ", ".join(rng.choice([key, str(n)]) for n, key in enumerate(keys, 1))
    if rng.random() < 0.3:
        text += f" having count({rng.choice(['*', 'qty'])}) > {rng.randrange(4)}"
    return text + _order(rng, len(keys) or 1)


def _aggregate(rng: random.Random, of: list[str] | None = None) -> str:
    """One aggregate; over numbers where the result is to be one."""
    sums = ["sum", "avg", "stddev", "variance", "var_pop", "stddev_pop", "count"]
    ends = [] if of else ["min", "max"]
    name = rng.choice([*sums, *ends, "count(distinct", "sum(distinct"])
    value = rng.choice(ANY if name in ("min", "max", "count", "count(distinct") else NUMBERS)
    text = f"{name} {value})" if "(" in name else f"{name}({value})"
    return text + (f" filter (where {rng.choice(CONDITIONS[:-1])})" if rng.random() < 0.25 else "")


def _rows(rng: random.Random) -> str:
    columns = ["id", *rng.sample([*ANY, *KEYS], rng.randrange(1, 4))]
    if rng.random() < 0.3:
        del columns[0]
        return f"select distinct {', '.join(columns)} from sale s{_where(rng)}" + _order(rng, len(columns))
    text = f"select {', '.join(columns)} from sale s{_where(rng)}"
    return f"{text} order by {rng.choice(columns)} {_way(rng)}, id{_bounds(rng)}"


def _where(rng: random.Random) -> str:
    found = rng.sample(CONDITIONS, rng.choice([0, 0, 1, 2]))
    return f" where {rng.choice([' and ', ' or ']).join(found)}" if found else ""


def _order(rng: random.Random, columns: int) -> str:
    """An order by all columns that make a row unique, so that a bound cuts the same rows everywhere."""
    places = rng.sample(range(1, columns + 1), columns)
    text = " order by " + ", ".join(f"{place} {_way(rng)}" for place in places)
    return text + _bounds(rng)


def _way(rng: random.Random) -> str:
    return rng.choice(["", "asc", "desc", "desc nulls last", "nulls first"])


def _bounds(rng: random.Random) -> str:
    text = f" limit {rng.randrange(12)}" if rng.random() < 0.4 else ""
    return text + (f" offset {rng.randrange(4)}" if rng.random() < 0.2 else "")
