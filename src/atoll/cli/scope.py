"""`atoll scope` and `atoll regions`: where rows may go, and the places that they may be in."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres


class Action(StrEnum):
    EXPLAIN = "explain"


def scope(
    action: Annotated[Action, typer.Argument(help="explain")],
    table: Annotated[str, typer.Argument(help="Table, with its schema if that is not public.")],
    key: Annotated[list[str] | None, typer.Argument(help="The row's key; a part for each column.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Say which nodes hold a table's rows, or one row, and why."""
    from atoll.cli.rows import fetch, print_table

    postgres = running_postgres(find_home(home))
    (rule,) = fetch(postgres, "fleet", "scope_rule", (table,))
    scopes = fetch(postgres, "fleet", "scope_of_row", (table, key)) if key else []
    of_row = scopes[0]["scope_of_row"] if scopes else None
    holders = fetch(postgres, "fleet", "holders", {"scope": of_row or rule["usual"], "by_row": not of_row})
    if as_json:
        typer.echo(json.dumps({**rule, "row_scope": of_row, "nodes": holders}, indent=1, default=str))
        return
    typer.echo(rule["words"])
    if of_row:
        typer.echo(f"this row: {of_row}")
    titles = ("node", "region", "law", "holds", "why")
    print_table(
        titles,
        [
            [row["name"], row["region"], row["law"] or "-", "yes" if row["holds"] else "no", row["why"]]
            for row in holders
        ],
    )


def regions(
    name: Annotated[str | None, typer.Argument(help="A region to name or change.")] = None,
    law: Annotated[
        str | None, typer.Option(metavar="LAW", help="The law that applies, such as GDPR.")
    ] = None,
    note: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Anything that people should know.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the regions, the law of each and the nodes in it; or say a region's law."""
    from atoll.cli import flags
    from atoll.cli.rows import fetch, print_table

    postgres = running_postgres(find_home(home))
    if name is not None:
        flags.check("region", name)
        fetch(postgres, "fleet", "name_region", {"name": name, "law": law, "note": note})
    found = fetch(postgres, "fleet", "regions")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    rows = [[row["name"], row["law"] or "-", ", ".join(row["nodes"]) or "-", row["note"]] for row in found]
    print_table(("region", "law", "nodes", "note"), rows)
