"""From a question to what each node is asked and how the answers become one. Pure: values in, a plan out.

The answer is to be what one PostgreSQL would say that held all rows of the chosen nodes. sqlglot does the
parsing; shapes.py takes a select apart, moving.py is for what does not come apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers

from atoll.analytics import reach
from atoll.analytics.moving import plan_moving
from atoll.analytics.naming import relation_name
from atoll.analytics.partial import MORE_AGGREGATES, CannotMerge, has_aggregate, sql
from atoll.analytics.plan import Ask, Plan
from atoll.analytics.question import Catalog, Member, Question, Reach, Relation
from atoll.analytics.shapes import plan_groups, plan_union
from atoll.domain.errors import DataError

SQL_LENGTH_MAX = 100_000


def parse(text: str) -> exp.Query:
    """The one SELECT that a question is."""
    if len(text) > SQL_LENGTH_MAX:
        raise DataError("question-malformed", f"a question has {SQL_LENGTH_MAX:,} characters at most")
    try:
        found = [tree for tree in sqlglot.parse(text, read="postgres") if tree is not None]
    except (SqlglotError, RecursionError) as error:
        raise DataError(
            "question-malformed", "cannot understand the question", detail=f"{error}".split("\n")[0] + "."
        ) from error
    if len(found) != 1 or not isinstance(found[0], exp.Query) or isinstance(found[0], exp.Subquery):
        raise DataError("question-not-a-select", "a question is one SELECT")
    tree = found[0]
    for kind in (exp.DML, exp.Into, exp.Lock, exp.Placeholder, exp.Parameter, exp.Command):
        if (node := tree.find(kind)) is not None and not isinstance(node, exp.Query):
            raise DataError("question-not-a-select", f"a question only reads; it has {sql(node)[:60]}")
    return normalize_identifiers(tree, dialect="postgres")


def relations_of(tree: exp.Query) -> dict[str, list[exp.Table]]:
    """Every table that a question names, as SQL would resolve it, with its occurrences."""
    common = {cte.alias for cte in tree.find_all(exp.CTE)}
    found: dict[str, list[exp.Table]] = {}
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and (table.db or table.name not in common):
            found.setdefault(relation_name(table), []).append(table)
    return found


def make_plan(question: Question, catalog: Catalog, members: Sequence[Member]) -> Plan:
    """Who is asked what. `members` are the chosen nodes."""
    try:
        return _plan(question, catalog, parse(question.sql), members)
    except RecursionError as error:
        raise DataError("question-malformed", "the question is nested too deeply") from error


def _plan(question: Question, catalog: Catalog, tree: exp.Query, members: Sequence[Member]) -> Plan:
    tables = relations_of(tree)
    known = {name: _effective(catalog.relations.get(name, Relation()), members) for name in tables}
    narrowest = min((relation.reach for relation in known.values()), default=Reach.NODE)
    narrowest = reach.effective(narrowest, members)
    if narrowest is Reach.GLOBAL:
        duty = reach.share_out(Reach.GLOBAL, members)[0]
        asked = _without_sketches(tree, question.sql)
        return Plan("whole", (Ask("p0", duty, (asked,) * len(duty.candidates)),))
    for name, relation in known.items():
        if not relation.is_countable:
            raise DataError(
                "question-view",
                f"view {name} cannot be asked of several nodes",
                detail="It reads a table whose rows say where they belong, and nodes share some of them.",
                hint="Name the table itself, or ask one node with --on node=NAME.",
            )
    narrow = [node for name, nodes in tables.items() if known[name].reach < Reach.GLOBAL for node in nodes]
    try:
        return _decompose(question, catalog, tree, known, narrow, narrowest, members)
    except CannotMerge as why:
        plan = plan_moving(tree, tables, known, members)
        note = f"rows were moved, since {why} cannot be put together from parts"
        return replace(plan, notes=(*plan.notes, note))


def _effective(relation: Relation, members: Sequence[Member]) -> Relation:
    return replace(relation, reach=reach.effective(relation.reach, members))


def _without_sketches(tree: exp.Query, text: str) -> str:
    """PostgreSQL has no approx_quantile; where one node answers, it is exact."""
    if tree.find(exp.ApproxQuantile) is None:
        return text.strip().rstrip("; \t\n")

    def exact(node: exp.Expr) -> exp.Expr:
        if not isinstance(node, exp.ApproxQuantile):
            return node
        order = exp.Order(expressions=[exp.Ordered(this=node.this)])
        return exp.WithinGroup(this=exp.PercentileCont(this=node.args["quantile"]), expression=order)

    return sql(tree.transform(exact))


# Coming apart


def _decompose(
    question: Question,
    catalog: Catalog,
    tree: exp.Query,
    known: dict[str, Relation],
    narrow: list[exp.Table],
    narrowest: Reach,
    members: Sequence[Member],
) -> Plan:
    if not isinstance(tree, exp.Select):
        raise CannotMerge("a set operation")
    if not question.joins_locally:
        _check_joins(tree, narrow)
    elif any(node.parent_select is not tree for node in narrow):
        raise CannotMerge("a subquery over rows of several nodes")
    names = MORE_AGGREGATES | catalog.aggregates
    clauses = [*tree.expressions, *(tree.args.get(name) for name in ("having", "order", "group"))]
    parts = [clause for clause in clauses if clause is not None]
    if any(window.parent_select is tree for window in tree.find_all(exp.Window)):
        raise CannotMerge("a window function")
    is_grouped = tree.args.get("group") is not None or tree.args.get("having") is not None
    columns = {column for relation in known.values() for column in relation.columns}
    if is_grouped or any(has_aggregate(part, names) for part in parts):
        shape = plan_groups(tree, columns, names, question.is_exact)
    else:
        shape = plan_union(tree, columns)
    duties = reach.share_out(narrowest, members)
    asks = []
    for duty in duties:
        texts = []
        for member in duty.candidates:
            asked = shape.asked.copy()
            for table in asked.find_all(exp.Table):
                relation = known.get(relation_name(table))
                if relation is not None and relation.scope_column and table.parent_select is asked:
                    column = sql(exp.column(relation.scope_column, table=table.alias_or_name, quoted=True))
                    condition = reach.rows_of(relation, member, members, column)
                    if condition is not None:
                        asked = asked.where(sqlglot.parse_one(condition, read="postgres"), copy=False)
            texts.append(sql(asked))
        asks.append(Ask("p0", duty, tuple(texts)))
    return replace(shape.plan, asks=tuple(asks))


def _check_joins(tree: exp.Select, narrow: list[exp.Table]) -> None:
    """Joining at each node is right if one table has rows of its own there and no other has any left over."""
    if len(narrow) > 1:
        raise CannotMerge("a join of tables whose rows are on several nodes")
    for table in narrow:
        holder = table.parent
        if not isinstance(holder, exp.From | exp.Join) or holder.parent is not tree:
            raise CannotMerge("a subquery over rows of several nodes")
        joins = list(tree.args.get("joins") or ())
        later = joins if isinstance(holder, exp.From) else joins[joins.index(holder) + 1 :]
        own_side = holder.side if isinstance(holder, exp.Join) else ""
        if own_side in ("LEFT", "FULL") or any(join.side in ("RIGHT", "FULL") for join in later):
            raise CannotMerge("an outer join that keeps rows of every node's other tables")
