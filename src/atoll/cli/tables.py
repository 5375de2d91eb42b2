"""`atoll share`, `atoll unshare` and `atoll tables`: which tables converge, and how their columns merge."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres


def share(
    table: Annotated[str, typer.Argument(help="Table, with its schema if that is not public.")],
    merge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=POLICY",
            help="lww, counter, max, min, first, set, document, group:NAME or function:NAME. Repeatable.",
        ),
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Rows are facts: inserted, never changed.")
    ] = False,
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="Where rows may go: global, region, node or local.")
    ] = "global",
    scope_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A column that says it row by row.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Share a table with the nodes of the atoll that may have its rows."""
    from atoll.cli.rows import fetch

    rules = json.dumps(dict(_rule(text) for text in merge or ()))
    postgres = running_postgres(find_home(home))
    found = fetch(
        postgres, "tables", "share", (table, rules, "append" if append else "merge", scope, scope_column)
    )
    typer.echo(f"{found[0]['share']} is shared")


def _rule(text: str) -> tuple[str, str]:
    column, equals, policy = text.rpartition("=")
    if not equals or not column or not policy:
        raise typer.BadParameter(f"{text!r} is not COLUMN=POLICY, such as qty=counter")
    return column, policy


def unshare(
    table: Annotated[str, typer.Argument(help="Table, with its schema if that is not public.")],
    home: HomeOption = None,
) -> None:
    """End the sharing of a table, on every node. Each keeps its rows."""
    from atoll.cli.rows import fetch

    found = fetch(running_postgres(find_home(home)), "tables", "unshare", (table,))
    typer.echo(f"{found[0]['unshare']} is no longer shared")


def tables(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the shared tables, their rows, and what stands in a table's way."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "tables", "tables_seen")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    if not found:
        typer.echo("no table is shared yet; share one with: atoll share TABLE")
        return
    titles = ("table", "kind", "scope", "rows", "conflicts", "parked", "merge", "problem")
    rows = []
    for row in found:
        rules = ", ".join(f"{column}={policy}" for column, policy in row["merge"].items())
        counts = [str(row[name]) for name in ("rows", "conflicts", "parked")]
        rows.append([row["name"], row["kind"], _scope(row), *counts, rules, row["problem"] or ""])
    print_table(titles, rows, right=("rows", "conflicts", "parked"))


def _scope(row: dict[str, Any]) -> str:
    return f"{row['scope_column']}, or {row['scope']}" if row["scope_column"] else str(row["scope"])
