"""`atoll check`: compares every shared table on all nodes, by hash, and names each row that differs."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.node.postgres.server import Postgres

POLL_SECONDS = 0.1
AGAIN_SECONDS = 1.0


def check(
    table: Annotated[
        list[str] | None, typer.Argument(help="Tables; all shared tables if none is named.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Try again for so long, for writes that are on their way."),
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Compare tables with all linked nodes. Exits with 1 where rows differ, with 3 where a node is silent."""
    postgres = running_postgres(find_home(home))
    answer = asyncio.run(_check(postgres, table or [], wait))
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
    else:
        _print(answer)
    if not all(found["same"] for found in answer["tables"]):
        raise typer.Exit(1)
    if answer["silent"]:
        raise typer.Exit(3)


async def _check(postgres: Postgres, tables: list[str], wait: float) -> dict[str, Any]:
    from atoll.node.mesh.asking import ask

    names = [name if "." in name else f"public.{name}" for name in tables]
    deadline = time.monotonic() + wait
    while True:
        answer = await ask(postgres, "check", {"tables": names})
        is_same = not answer["silent"] and all(found["same"] for found in answer["tables"])
        if is_same or time.monotonic() >= deadline:
            return answer
        await asyncio.sleep(AGAIN_SECONDS)


def _print(answer: dict[str, Any]) -> None:
    from rich.console import Console

    from atoll.cli.rows import readable_key

    console = Console(highlight=False)
    width = max((len(found["table"]) for found in answer["tables"]), default=0)
    for found in answer["tables"]:
        rows = sorted(set(found["rows"].values())) or [0]
        count = f"{rows[0]} rows" if len(rows) == 1 else f"{rows[0]} to {rows[-1]} rows"
        console.print(f"{found['table']:<{width}}  {count:>14}  {_word(found, answer['nodes'])}")
        for row in found["differences"]:
            seen = ", ".join(
                f"{node} {digest[:8] if digest else 'missing'}" for node, digest in row["hashes"].items()
            )
            console.print(f"  {readable_key(row['key'])}: {seen}", markup=False)
    console.print(f"compared on {len(answer['nodes'])} nodes: {', '.join(answer['nodes'])}")
    for node, why in answer["silent"].items():
        console.print(f"[yellow]not compared: {node} ({why})[/]")


def _word(found: dict[str, Any], nodes: list[str]) -> str:
    if found["same"] and len(found["rows"]) == 1 < len(nodes):
        return "[dim]no other node may have these rows[/]"
    if found["same"] and len(found["rows"]) < len(nodes):
        return f"[green]same[/] on {', '.join(found['rows'])}"
    if found["same"]:
        return "[green]same[/]"
    more = "" if found["complete"] else "more than "
    words = [f"{more}{len(found['differences'])} rows differ"] if found["differences"] else []
    words += [f"not shared on {node}" for node in found["absent"]]
    return f"[red]{'; '.join(words)}[/]"
