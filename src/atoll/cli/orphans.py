"""`atoll orphans`: rows whose parent was deleted elsewhere, and what becomes of them."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.rows import fetch, print_table


def orphans(
    table: Annotated[str | None, typer.Argument(help="Only those of this table.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Say what becomes of the table's orphans: report, follow, remove or restore."),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Look through the tables first, at once.")] = False,
    most: Annotated[int, typer.Option("-n", min=1, max=100_000, help="How many.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List rows whose parent was deleted on another node, and what was done about them."""
    from atoll.node.mesh.asking import ask

    postgres = running_postgres(find_home(home))
    name = table if table is None or "." in table else f"public.{table}"
    if policy is not None:
        if name is None:
            raise typer.BadParameter("name the table that the policy is for")
        fetch(postgres, "orphans", "set_policy", (name, policy))
        typer.echo(f"orphans of {name}: {policy}", err=as_json)
    if now:
        answer = asyncio.run(ask(postgres, "orphans", {"tables": [name] if name else []}))
        if not answer["complete"]:
            typer.echo("not all rows were looked at: the node goes on by itself", err=True)
    found = fetch(postgres, "orphans", "orphans_seen", {"table": name, "most": most})
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
    elif not found:
        typer.echo("no orphans")
    else:
        titles = ("table", "key", "constraint", "parent", "why", "since", "policy", "what was done")
        print_table(titles, [_cells(row) for row in found])


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["table"],
        row["key"],
        row["constraint"],
        f"{row['parent']} {row['parent_key']}",
        row["why"],
        f"{row['since']:%m-%d %H:%M:%S}",
        row["policy"],
        _done(row),
    ]


def _done(row: dict[str, Any]) -> str:
    if row["done"]:
        return str(row["done"])
    if row["problem"]:
        return str(row["problem"])
    return "-" if row["lasts"] else "waits until every node was heard"
