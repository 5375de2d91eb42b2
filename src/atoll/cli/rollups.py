"""`atoll rollups`: what is kept of tables window by window, and how far."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres


def rollups(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the rollups, what they keep, and what stands in a rollup's way."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "rollups", "rollups_seen")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
    elif not found:
        typer.echo("no table is rolled up; see atoll.rollup in the documentation of SQL")
    else:
        titles = ("rollup", "table", "bucket", "by", "measures", "scope", "state", "problem")
        print_table(titles, [_cells(row) for row in found])


def _cells(row: dict[str, Any]) -> list[str]:
    measures = ", ".join(f"{column}: {' '.join(what)}" for column, what in row["measures"].items())
    state = f"filling, from {row['counted_from']}" if row["state"] == "filling" else row["state"]
    by = ", ".join(row["by"])
    return [row["name"], row["table"], row["bucket"], by, measures, row["scope"], state, row["problem"] or ""]
