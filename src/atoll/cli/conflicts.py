"""`atoll conflicts`, `atoll revert` and `atoll parked`: what lost, and what could not be merged yet."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.rows import fetch, print_table

VALUE_LENGTH_MAX = 40


def conflicts(
    table: Annotated[str | None, typer.Argument(help="Only those of this table.")] = None,
    most: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many, the latest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List writes that lost to another node's: what, to what, when and why."""
    name = table if table is None or "." in table else f"public.{table}"
    asked = {"table": name, "most": most}
    found = fetch(running_postgres(find_home(home)), "conflicts", "conflicts_seen", asked)
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
    elif not found:
        typer.echo("no conflicts")
    else:
        titles = ("id", "table", "key", "column", "lost", "by", "won", "by", "why")
        print_table(titles, [_cells(row) for row in found], right=("id",))


def _cells(row: dict[str, Any]) -> list[str]:
    key = ", ".join(f"{column}={value}" for column, value in row["key"].items())
    why = row["why"] + ("; put back" if row["reverted_at"] else "")
    return [
        str(row["id"]),
        row["table"],
        key,
        row["column"] or "(row)",
        _short(row["lost_value"] if row["lost_value"] is not None else "null"),
        row["lost_by"],
        _short(row["won_value"] if row["won_value"] is not None else "-"),
        row["won_by"],
        why,
    ]


def _short(text: str) -> str:
    return text if len(text) <= VALUE_LENGTH_MAX else text[: VALUE_LENGTH_MAX - 1] + "…"


def revert(
    conflict: Annotated[int, typer.Argument(help="The id that `atoll conflicts` shows.")],
    home: HomeOption = None,
) -> None:
    """Write the loser of a conflict back, as a new write of this node."""
    fetch(running_postgres(find_home(home)), "conflicts", "revert", (conflict,))
    typer.echo(f"conflict {conflict} is reverted")


def parked(
    retry: Annotated[bool, typer.Option("--retry", help="Try all of them now.")] = False,
    most: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many, the oldest first.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List changes that could not be merged yet, with their reasons. The node tries them again by itself."""
    postgres = running_postgres(find_home(home))
    if retry:
        done = fetch(postgres, "conflicts", "retry")[0]
        typer.echo(f"{done['merged']} merged, {done['remain']} remain", err=as_json)
    found = fetch(postgres, "conflicts", "parked_seen", (most,))
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
    elif not found:
        typer.echo("nothing is parked")
    else:
        titles = ("from", "seq", "table", "tries", "next", "code", "reason")
        rows = [
            [
                row["node"],
                str(row["seq"]),
                row["table"],
                str(row["attempts"]),
                f"{row['retry_at']:%H:%M:%S}",
                row["code"],
                row["reason"],
            ]
            for row in found
        ]
        print_table(titles, rows, right=("seq", "tries"))
