"""`atoll repair` and `atoll receipt`: rows that differ, and a line by which two sides compare."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.rows import fetch, print_table

VALUE_LENGTH_MAX = 40


def repair(
    table: Annotated[
        list[str] | None, typer.Argument(help="Tables; all shared tables if none is named.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Show what was mended here before.")] = False,
    most: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many of them.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Compare with every neighbour and mend the rows here that differ. Exits with 1 where some are left."""
    from atoll.node.mesh.asking import ask

    postgres = running_postgres(find_home(home))
    if listing:
        _list(fetch(postgres, "scrub", "repairs_seen", (most,)), as_json)
        return
    names = [name if "." in name else f"public.{name}" for name in table or []]
    answer = asyncio.run(ask(postgres, "repair", {"tables": names, "dry": dry_run}))
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
    else:
        _print(answer, dry_run)
    if not answer["compared"]:
        raise typer.Exit(3)
    if answer["left"]:
        raise typer.Exit(1)


def _print(answer: dict[str, Any], is_dry: bool) -> None:
    from atoll.cli.rows import readable_key

    for row in answer["mended"]:
        typer.echo(f"mended  {row['tbl']} {readable_key(row['key'])}: {row['why']}")
    for row in answer["left"]:
        word = "differs" if row["lasts"] else "may be on its way"
        if row["lasts"] and is_dry and row["will"] != "none":
            word = {"join": "would be joined", "value": "would be replaced", "adopt": "would be adopted"}[
                row["will"]
            ]
        typer.echo(f"{word}  {row['tbl']} {readable_key(row['key'])}: {row['why']}")
    nodes = len(answer["compared"])
    found = f"{len(answer['mended'])} mended, {len(answer['left'])} left"
    typer.echo(f"compared with {nodes} node{'' if nodes == 1 else 's'}: {found}")


def _list(found: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
    elif not found:
        typer.echo("nothing was mended")
    else:
        titles = ("id", "at", "table", "key", "how", "like", "was", "why")
        rows = [
            [
                str(row["id"]),
                f"{row['at']:%m-%d %H:%M:%S}",
                row["tbl"],
                row["key"],
                row["kind"],
                row["like_node"],
                _short(json.dumps(row["was"])) if row["was"] is not None else "missing",
                row["why"],
            ]
            for row in found
        ]
        print_table(titles, rows, right=("id",))


def _short(text: str) -> str:
    return text if len(text) <= VALUE_LENGTH_MAX else text[: VALUE_LENGTH_MAX - 1] + "…"


def receipt(
    table: Annotated[str, typer.Argument(help="The table.")],
    scope: Annotated[
        list[str] | None, typer.Option("--scope", help="Only rows of this scope; may be repeated.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Print a table's receipt: two nodes that print the same line have the same rows."""
    from atoll.domain.errors import DataError

    name = table if "." in table else f"public.{table}"
    asked = {"table": name, "scopes": scope or None}
    found = fetch(running_postgres(find_home(home)), "scrub", "receipt", asked)
    if not found:
        raise DataError("table-not-shared", f"table {name} is not shared", hint="See what is: atoll tables")
    if as_json:
        typer.echo(json.dumps(found[0], indent=1, default=str))
    else:
        typer.echo(f"{found[0]['name']} {found[0]['receipt']}")
