"""Takes the aggregates of a question apart: what each node computes, and how the nodes' answers become one.

Every node answers with one row per group; sums of sums, counts and the like are then the whole. A DISTINCT or
a quantile adds a column to the node's groups (the value, or its bucket), over which all other aggregates
still add up. What does not come apart raises CannotMerge, and the planner moves rows instead. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from sqlglot import exp, parse_one

from atoll.analytics import sketch

VARIANCES: dict[type[exp.Expr], tuple[str, bool]] = {
    exp.Variance: ("sample", False),
    exp.VariancePop: ("population", False),
    exp.Stddev: ("sample", True),
    exp.StddevSamp: ("sample", True),
    exp.StddevPop: ("population", True),
}
QUANTILES = (exp.PercentileCont, exp.PercentileDisc, exp.ApproxQuantile)
# Aggregates that the parser takes for ordinary functions; the catalog adds those that users have made.
MORE_AGGREGATES = frozenset(
    {"every", "mode", "any_value", "range_agg", "xmlagg", "bit_and", "bit_or", "bit_xor"}
    | {"json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg"}
    | {"corr", "covar_pop", "covar_samp", "regr_slope", "regr_intercept", "regr_count", "regr_r2"}
)


class CannotMerge(Exception):
    """This part of a question does not come apart; the text says which."""


def sql(expression: exp.Expr) -> str:
    return expression.sql(dialect="postgres", identify=True)


def read(text: str) -> exp.Expr:
    return parse_one(text, read="postgres")


def read_column(text: str) -> exp.Expr:
    """What stands between SELECT and FROM."""
    return exp.maybe_parse(f"select {text}", into=exp.Select, dialect="postgres").selects[0]


@dataclass
class Histogram:
    """A sketch: the columns of its codes and counts, its ends, and what is read from it."""

    code: str
    count: str
    ends: str
    shares: list[str]


class Aggregates:
    """Collects what nodes have to compute while a question's expressions are rewritten."""

    def __init__(self, keys: list[exp.Expr], is_exact: bool, names: Set[str] = MORE_AGGREGATES) -> None:
        self._keys = keys
        self._is_exact = is_exact
        self._names = names
        self._extras: list[str] = []
        self._columns: list[str] = []
        self._merged: list[str] = []
        self._means: list[str] = []
        self._sketches: list[Histogram] = []
        self._known: dict[str, exp.Expr] = {}
        self.has_sketch = False

    # Rewriting

    def final(self, expression: exp.Expr) -> exp.Expr:
        """The expression over the merged groups `m` and the quantiles `q…`."""
        return expression.copy().transform(self._replace)

    def _replace(self, node: exp.Expr) -> exp.Expr:
        for number, key in enumerate(self._keys):
            if node == key:
                return exp.column(f"k{number}", table="m")
        if isinstance(node, exp.Window):
            raise CannotMerge("a window function")
        if isinstance(node, exp.Query):
            raise CannotMerge("a subquery")
        if is_aggregate(node, self._names):
            text = sql(node)
            if text not in self._known:
                self._known[text] = self._take_apart(node)
            return self._known[text].copy()
        if isinstance(node, exp.Column | exp.Star):
            raise CannotMerge(f"the column {sql(node)}, which is not grouped by,")
        return node

    def _take_apart(self, node: exp.Expr) -> exp.Expr:
        condition = None
        if isinstance(node, exp.Filter):
            condition, node = sql(node.expression.this), node.this
        if isinstance(node, exp.WithinGroup | exp.ApproxQuantile):
            return self._quantile(node, condition)
        inner = node.expressions[0] if isinstance(node, exp.Anonymous) and node.expressions else node.this
        if isinstance(inner, exp.Order):
            raise CannotMerge("an aggregate with an order")
        if isinstance(inner, exp.Distinct):
            return self._distinct(node, inner, condition)
        return self._plain(node, sql(inner) if inner is not None else "*", condition)

    def _plain(self, node: exp.Expr, argument: str, condition: str | None) -> exp.Expr:
        def part(text: str) -> str:
            return self._column(text, condition)

        if isinstance(node, exp.Count):
            if node.expressions:
                raise CannotMerge("a count of several columns")
            return self._merge(f"coalesce(sum({part(f'count({argument})')}), 0)::bigint")
        if isinstance(node, exp.Sum):
            return self._merge(f"sum({part(f'sum({argument})')})")
        if isinstance(node, exp.Avg):
            total, count = part(f"sum({argument})"), part(f"count({argument})")
            return self._merge(f"sum({total})::float8 / nullif(sum({count}), 0)::float8")
        for kind, name in ((exp.Min, "min"), (exp.Max, "max")):
            if isinstance(node, kind) and not node.expressions:
                return self._merge(f"{name}({part(f'{name}({argument})')})")
        for judge, name in ((exp.LogicalAnd, "bool_and"), (exp.LogicalOr, "bool_or")):
            if isinstance(node, judge):
                return self._merge(f"{name}({part(f'{name}({argument})')})")
        if isinstance(node, exp.Anonymous) and node.name.lower() == "every":
            return self._merge(f"bool_and({part(f'bool_and({argument})')})")
        if type(node) in VARIANCES:
            return self._variance(argument, part, *VARIANCES[type(node)])
        raise CannotMerge(f"the aggregate {sql(node)}")

    def _variance(self, argument: str, part: Callable[[str], str], kind: str, is_root: bool) -> exp.Expr:
        """From each node's count, mean and squares around it; the differences of the means are added."""
        count = part(f"count({argument})")
        mean = part(f"avg({argument})::float8")
        squares = part(f"(var_pop({argument}) * count({argument}))::float8")
        grand = f"g{len(self._means)}"
        self._means.append(
            f"sum({count} * {mean}) over groups / nullif(sum({count}) over groups, 0) as {grand}"
        )
        total = f"sum({squares} + {count} * power({mean} - {grand}, 2))"
        divisor = f"sum({count})" if kind == "population" else f"(sum({count}) - 1)"
        variance = f"case when {divisor} > 0 then greatest({total}, 0.0) / {divisor} end"
        return self._merge(f"sqrt({variance})" if is_root else variance)

    def _distinct(self, node: exp.Expr, inner: exp.Distinct, condition: str | None) -> exp.Expr:
        if len(inner.expressions) != 1 or inner.args.get("on"):
            raise CannotMerge("an aggregate over several distinct columns")
        value = sql(inner.expressions[0])
        if isinstance(node, exp.Min | exp.Max | exp.LogicalAnd | exp.LogicalOr):
            return self._plain(node, value, condition)
        if not isinstance(node, exp.Count | exp.Sum | exp.Avg):
            raise CannotMerge(f"the aggregate {sql(node)}")
        extra = self._extra(f"case when {condition} then {value} end" if condition else value)
        if isinstance(node, exp.Avg):
            return self._merge(f"avg(distinct {extra})::float8")
        return self._merge(f"{'count' if isinstance(node, exp.Count) else 'sum'}(distinct {extra})")

    def _quantile(self, node: exp.Expr, condition: str | None) -> exp.Expr:
        if self._is_exact:
            raise CannotMerge("an exact quantile")
        value, share, form = _quantile_of(node)
        if condition:
            value = f"case when {condition} then {value} end"
        code = self._extra(sketch.bucket(value))
        number = next(
            (n for n, known in enumerate(self._sketches) if known.code == code), len(self._sketches)
        )
        if number == len(self._sketches):
            x = f"({value})::float8"
            count, low, high = (self._column(f"{name}({x})", None) for name in ("count", "min", "max"))
            self._sketches.append(Histogram(code, count, f"min({low}) as low, max({high}) as high", []))
        shares = self._sketches[number].shares
        shares.append(form(share))
        self.has_sketch = True
        return exp.column(f"v{len(shares) - 1}", table=f"q{number}")

    # What is collected

    def _column(self, text: str, condition: str | None) -> str:
        """A column of the nodes' answers, the same for the same text."""
        if condition:
            if text.endswith("::float8") or text.startswith("("):
                text = _filter_each(text, condition)
            else:
                text = f"{text} filter (where {condition})"
        if text not in self._columns:
            self._columns.append(text)
        return f"c{self._columns.index(text)}"

    def _extra(self, text: str) -> str:
        if text not in self._extras:
            self._extras.append(text)
        return f"e{self._extras.index(text)}"

    def _merge(self, text: str) -> exp.Expr:
        if text not in self._merged:
            self._merged.append(text)
        return exp.column(f"a{self._merged.index(text)}", table="m")

    # What comes of it

    def partial_columns(self) -> list[str]:
        """What a node selects; the groups come first."""
        keys = [f'{sql(key)} as "k{n}"' for n, key in enumerate(self._keys)]
        extras = [f'{text} as "e{n}"' for n, text in enumerate(self._extras)]
        return [*keys, *extras, *(f'{text} as "c{n}"' for n, text in enumerate(self._columns))]

    def partial_groups(self) -> list[str]:
        return [str(n + 1) for n in range(len(self._keys) + len(self._extras))]

    def source(self, part: str) -> str:
        """The merged groups and quantiles, as what a query selects from."""
        keys = [f"k{n}" for n in range(len(self._keys))]
        grouped = f" group by {', '.join(keys)}" if keys else ""
        around = f"(partition by {', '.join(keys)})" if keys else "()"
        means = ", ".join(["*", *self._means]).replace("over groups", f"over {around}")
        found = [f"{text} as a{n}" for n, text in enumerate(self._merged)]
        columns = ", ".join([*keys, *found]) or "count(*) as nothing"
        text = f"(select {columns} from (select {means} from {part}) as s{grouped}) as m"  # noqa: S608
        for number, histogram in enumerate(self._sketches):
            same = " and ".join(f"m.{key} is not distinct from q{number}.{key}" for key in keys) or "true"
            text += f" left join ({_quantiles(histogram, part, keys, grouped)}) as q{number} on {same}"
        return text


def _quantiles(histogram: Histogram, part: str, keys: list[str], grouped: str) -> str:
    """One row per group with the values at the wanted places. All names are ours."""
    code, over = histogram.code, f"over (partition by {', '.join(keys) or '1'}"
    listed = "".join(f"{key}, " for key in keys)
    buckets = (
        f"select {listed}{code} as code, sum({histogram.count}) as w, {histogram.ends} from {part}"  # noqa: S608
        f" where {code} is not null group by {listed}{code}"
    )
    counted = (
        f"select *, {sketch.estimate('code', 'low', 'high')} as v, sum(w) {over} order by code) as upto,"  # noqa: S608
        f" sum(w) {over}) as n from ({buckets}) as b"
    )
    values = ", ".join(f"{text} as v{n}" for n, text in enumerate(histogram.shares))
    return f"select {listed}{values} from ({counted}) as c{grouped}"  # noqa: S608


def is_aggregate(node: exp.Expr, names: Set[str] = MORE_AGGREGATES) -> bool:
    if isinstance(node, exp.Filter | exp.WithinGroup | exp.AggFunc):
        return True
    return isinstance(node, exp.Func) and sql(node).partition("(")[0].strip('"').lower() in names


def has_aggregate(expression: exp.Expr, names: Set[str] = MORE_AGGREGATES) -> bool:
    """Is there an aggregate of this level, outside of subqueries and windows?"""
    found = expression.walk(prune=lambda node: isinstance(node, exp.Query | exp.Window))
    return any(is_aggregate(node, names) for node in found)


def _quantile_of(node: exp.Expr) -> tuple[str, float, Callable[[float], str]]:
    """The value, the share, and how it is read from the buckets."""
    if isinstance(node, exp.ApproxQuantile):
        value, share, form = node.this, node.args.get("quantile"), sketch.continuous
    else:
        order = node.expression.expressions if isinstance(node.expression, exp.Order) else []
        if not isinstance(node.this, QUANTILES) or len(order) != 1:
            raise CannotMerge(f"the aggregate {sql(node)}")
        value, share = order[0].this, node.this.this
        form = sketch.continuous if isinstance(node.this, exp.PercentileCont) else sketch.discrete
        if order[0].args.get("desc"):
            raise CannotMerge("a quantile in descending order")
    if not isinstance(share, exp.Literal) or share.is_string or not 0 <= float(share.this) <= 1:
        raise CannotMerge("a quantile whose share is not a number from 0 to 1")
    return sql(value), float(share.this), form


def _filter_each(text: str, condition: str) -> str:
    """The aggregates inside of an expression of ours, each with the filter."""

    def narrow(node: exp.Expr) -> exp.Expr:
        if isinstance(node, exp.AggFunc):
            return exp.Filter(this=node, expression=exp.Where(this=read(condition)))
        return node

    return sql(read(text).transform(narrow))
