"""What things are called: tables as SQL resolves them, columns of a result as PostgreSQL names them. Pure."""

from __future__ import annotations

from sqlglot import exp

from atoll.analytics.partial import sql


def relation_name(table: exp.Table) -> str:
    return sql(exp.table_(table.name, table.db or None, quoted=True))


def output_names(tree: exp.Query) -> tuple[str, ...]:
    """The names that PostgreSQL would give the result's columns; none where a star hides their number."""
    selects = tree.selects
    if any(isinstance(item, exp.Star) or item.is_star for item in selects):
        return ()
    return tuple(_name(item) for item in selects)


def _name(item: exp.Expr) -> str:
    if item.alias_or_name and isinstance(item, exp.Alias | exp.Column):
        return item.alias_or_name
    if isinstance(item, exp.Filter | exp.WithinGroup | exp.Window | exp.Paren):
        return _name(item.this)
    if isinstance(item, exp.Cast):
        inner = _name(item.this)
        return inner if inner != "?column?" else sql(item.to).lower()
    if isinstance(item, exp.Case):
        return "case"
    if isinstance(item, exp.Func) and not isinstance(item, exp.Binary | exp.Connector):
        return sql(item).partition("(")[0].strip('"').lower()
    return "?column?"
