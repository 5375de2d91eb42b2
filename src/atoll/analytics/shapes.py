"""The shapes in which a select comes apart: rows that are put together, groups that are added up. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from sqlglot import exp

from atoll.analytics import partial
from atoll.analytics.naming import output_names
from atoll.analytics.partial import Aggregates, CannotMerge, sql
from atoll.analytics.plan import Order, Plan
from atoll.analytics.sketch import ACCURACY

CLAUSES = ("order", "limit", "offset", "having", "distinct", "group")


@dataclass(frozen=True)
class Shape:
    """What a node is asked, and the plan without who is asked."""

    asked: exp.Select
    plan: Plan


def plan_union(tree: exp.Select, columns: Set[str]) -> Shape:
    """Every node's rows, sorted and cut again."""
    limit, offset = _bounds(tree)
    is_distinct = _is_distinct(tree)
    names = output_names(tree)
    asked = tree.copy()
    orders: list[Order] = []
    hidden: list[exp.Expr] = []
    for term in _terms(tree):
        position = _position(term.this, tree, bool(names), columns)
        if position is None:
            if is_distinct:
                raise CannotMerge("a DISTINCT sorted by something else")
            hidden.append(_without_alias(term.this, tree, columns))
            position = -len(hidden)
        orders.append(Order(position, bool(term.args.get("desc")), _nulls_first(term)))
    orders = [
        Order(o.column if o.column >= 0 else -o.column - 1 - len(hidden), o.descends, o.nulls_first)
        for o in orders
    ]
    if hidden:
        asked = asked.select(*(exp.alias_(e.copy(), f"h{n}") for n, e in enumerate(hidden)), copy=False)
    asked.set("offset", None)
    if limit is not None:
        asked = asked.limit(limit + offset, copy=False)
    elif asked.args.get("order") is not None:
        asked.set("order", None)
    plan = Plan(
        "union",
        (),
        names=names,
        hidden=len(hidden),
        orders=tuple(orders),
        is_distinct=is_distinct,
        limit=limit,
        offset=offset,
    )
    return Shape(asked, plan)


def plan_groups(tree: exp.Select, columns: Set[str], aggregates: Set[str], is_exact: bool) -> Shape:
    """Every node's groups, added up."""
    limit, offset = _bounds(tree)
    if any(
        item.is_star and not isinstance(item, exp.Count)
        for item in tree.selects
        if not item.find(exp.AggFunc)
    ):
        raise CannotMerge("a star beside groups")
    tree = tree.copy()
    _strip_qualifiers(tree)
    keys = [_resolved(key, tree, columns) for key in _keys(tree)]
    merging = Aggregates(keys, is_exact, aggregates)
    finals = [merging.final(item.unalias()) for item in tree.selects]
    having = tree.args.get("having")
    condition = merging.final(having.this) if having is not None else None
    orders = []
    for term in _terms(tree):
        position = _position(term.this, tree, True, columns)
        text = str(position + 1) if position is not None else sql(merging.final(term.this))
        way = "desc" if term.args.get("desc") else "asc"
        orders.append(f"{text} {way} nulls {'first' if _nulls_first(term) else 'last'}")
    asked = tree.copy()
    for clause in CLAUSES:
        asked.set(clause, None)
    found = merging.partial_columns() or ["1 as nothing"]
    asked = asked.select(*(partial.read_column(text) for text in found), append=False, copy=False)
    if groups := merging.partial_groups():
        asked = asked.group_by(*groups, copy=False)
    elif keys or not merging.partial_columns():
        raise CannotMerge("a group without aggregates")
    text = "select " + ("distinct " if _is_distinct(tree) else "")
    text += ", ".join(f'{sql(final)} as "o{n}"' for n, final in enumerate(finals))
    text += f" from {merging.source('p0')}"
    text += f" where {sql(condition)}" if condition is not None else ""
    text += f" order by {', '.join(orders)}" if orders else ""
    text += f" limit {limit}" if limit is not None else ""
    text += f" offset {offset}" if offset else ""
    note = f"quantiles are estimated, within {ACCURACY:.0%} of the value; exact ones need their rows moved"
    notes = (note,) if merging.has_sketch else ()
    return Shape(asked, Plan("groups", (), merge=text, names=output_names(tree), notes=notes))


def _keys(tree: exp.Select) -> list[exp.Expr]:
    group = tree.args.get("group")
    if group is None:
        return []
    if any(value for name, value in group.args.items() if name != "expressions"):
        raise CannotMerge("a grouping set")
    if any(isinstance(key, exp.Rollup | exp.Cube | exp.GroupingSets) for key in group.expressions):
        raise CannotMerge("a grouping set")
    return list(group.expressions)


def _resolved(key: exp.Expr, tree: exp.Select, columns: Set[str]) -> exp.Expr:
    """A key that is written as a place or an alias, as what it stands for."""
    if isinstance(key, exp.Literal) and not key.is_string:
        return tree.selects[int(key.this) - 1].unalias().copy()
    if isinstance(key, exp.Column) and not key.table and key.name not in columns:
        for item in tree.selects:
            if isinstance(item, exp.Alias) and item.alias == key.name:
                return item.unalias().copy()
    return key.copy()


def _position(term: exp.Expr, tree: exp.Select, is_counted: bool, columns: Set[str]) -> int | None:
    """The place in the result that a term of ORDER BY means, if it means one."""
    if isinstance(term, exp.Literal) and not term.is_string:
        return int(term.this) - 1
    if not is_counted:
        return None
    for number, item in enumerate(tree.selects):
        if isinstance(term, exp.Column) and not term.table and item.alias_or_name == term.name:
            return number
        if item.unalias() == term:
            return number
    return None


def _without_alias(term: exp.Expr, tree: exp.Select, columns: Set[str]) -> exp.Expr:
    """Beside a star, an alias in ORDER BY is selected once more, under its expression."""
    for item in tree.selects:
        if isinstance(item, exp.Alias) and isinstance(term, exp.Column) and item.alias == term.name:
            return item.unalias()
    return term


def _strip_qualifiers(tree: exp.Select) -> None:
    """With one table, t.a and a are the same; say it one way."""
    joins, source = tree.args.get("joins"), tree.args.get("from_") or tree.args.get("from")
    if joins or source is None or not isinstance(source.this, exp.Table):
        return
    if any(isinstance(node, exp.Query) for node in tree.walk() if node is not tree):
        return
    for column in tree.find_all(exp.Column):
        column.set("table", None)
        column.set("db", None)


def _terms(tree: exp.Select) -> list[exp.Ordered]:
    order = tree.args.get("order")
    return list(order.expressions) if order is not None else []


def _nulls_first(term: exp.Ordered) -> bool:
    """PostgreSQL takes null for larger than everything."""
    told = term.args.get("nulls_first")
    return bool(told) if told is not None else bool(term.args.get("desc"))


def _is_distinct(tree: exp.Select) -> bool:
    distinct = tree.args.get("distinct")
    if distinct is not None and distinct.args.get("on") is not None:
        raise CannotMerge("a DISTINCT ON")
    return distinct is not None


def _bounds(tree: exp.Select) -> tuple[int | None, int]:
    limit, offset = tree.args.get("limit"), tree.args.get("offset")
    if limit is not None and not (isinstance(limit, exp.Limit) and isinstance(limit.expression, exp.Literal)):
        raise CannotMerge("a limit that is not a number")
    if offset is not None and not isinstance(offset.expression, exp.Literal):
        raise CannotMerge("an offset that is not a number")
    return (
        int(limit.expression.this) if limit is not None else None,
        int(offset.expression.this) if offset is not None else 0,
    )
