"""For what does not come apart: rows of the tables are moved, as few and as narrow as the question allows.

Pure. Columns that the question does not name stay behind, and conditions on one table are applied before its
rows move. The question itself then runs over the moved rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlglot
from sqlglot import exp

from atoll.analytics import reach
from atoll.analytics.naming import output_names
from atoll.analytics.partial import sql
from atoll.analytics.plan import Ask, Plan
from atoll.analytics.question import Member, Relation


def plan_moving(
    tree: exp.Query,
    tables: Mapping[str, list[exp.Table]],
    known: Mapping[str, Relation],
    members: Sequence[Member],
) -> Plan:
    asks: list[Ask] = []
    names = {column.name for column in tree.find_all(exp.Column)}
    names |= {
        identifier.name for join in tree.find_all(exp.Join) for identifier in join.args.get("using") or ()
    }
    has_star = any(not isinstance(star.parent, exp.Count) for star in tree.find_all(exp.Star)) or any(
        join.method == "NATURAL" for join in tree.find_all(exp.Join)
    )
    for number, (name, nodes) in enumerate(tables.items()):
        relation = known[name]
        aliases = {node.alias_or_name for node in nodes}
        columns = [column for column in relation.columns if column in names]
        if has_star or names & aliases or not relation.columns:
            columns = list(relation.columns)
        asked = exp.select(*(sql(exp.column(column, quoted=True)) for column in columns), dialect="postgres")
        if not columns:
            asked = exp.select("*")
        asked = asked.from_(nodes[0].copy())
        asked.find(exp.Table).set("alias", exp.TableAlias(this=exp.to_identifier("t", quoted=True)))  # type: ignore[union-attr]
        for conjunct in _pushed(tree, nodes):
            asked = asked.where(conjunct, copy=False)
        if not columns and relation.columns:
            asked.set("expressions", [exp.alias_(exp.Literal.number(1), "one")])
        for duty in reach.share_out(relation.reach, members):
            texts = []
            for member in duty.candidates:
                column = f't."{relation.scope_column}"' if relation.scope_column else ""
                condition = reach.rows_of(relation, member, members, column) if column else None
                text = asked.where(sqlglot.parse_one(condition, read="postgres")) if condition else asked
                texts.append(sql(text))
            asks.append(Ask(f"p{number}", duty, tuple(texts)))
        for node in nodes:
            node.replace(exp.alias_(exp.table_(f"p{number}"), node.alias_or_name, table=True, quoted=True))
    for column_node in tree.find_all(exp.Column):
        column_node.set("db", None)
        column_node.set("catalog", None)
    return Plan("moved", tuple(asks), merge=sql(tree), names=output_names(tree))


def _pushed(tree: exp.Query, nodes: list[exp.Table]) -> list[exp.Expr]:
    """Conditions of the question that a node can apply to this table before its rows move."""
    where = tree.args.get("where")
    if not isinstance(tree, exp.Select) or where is None or len(nodes) != 1:
        return []
    joins = tree.args.get("joins") or []
    if nodes[0].parent_select is not tree or any(join.side or join.method for join in joins):
        return []
    is_alone = not joins and tree.args.get("laterals") is None
    alias, found = nodes[0].alias_or_name, []
    for conjunct in where.this.flatten() if isinstance(where.this, exp.And) else [where.this]:
        columns = list(conjunct.find_all(exp.Column))
        if conjunct.find(exp.Query) or not columns:
            continue
        if all(column.table == alias or (is_alone and not column.table) for column in columns):
            copied = conjunct.copy()
            for column in copied.find_all(exp.Column):
                column.set("table", exp.to_identifier("t", quoted=True))
            found.append(copied)
    return found
