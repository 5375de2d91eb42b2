"""`atoll migrate`: DDL on this node, and on all others what of it concerns shared tables."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, foreign_postgres, postgres_port, running_postgres

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from atoll.node.home import Home


def migrate(
    file: Annotated[str | None, typer.Argument(help="File of SQL to run; - is standard input.")] = None,
    command: Annotated[str | None, typer.Option("-c", "--command", metavar="SQL", help="SQL to run.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what the nodes would do, and take it back.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Take things away although not every node is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Run DDL in one transaction. What it changes about shared tables is done on every node."""
    if (file is None) == (command is None):
        raise typer.BadParameter("give a file or -c")
    statements = command if command is not None else _read(str(file))
    found = find_home(home)
    running_postgres(found)
    steps = asyncio.run(_migrate(found, statements, dry_run, force))
    if as_json:
        typer.echo(json.dumps(steps, indent=1))
        return
    for step in steps:
        typer.echo(f"{step['table']}: {step['step']}")
    if dry_run:
        typer.echo("nothing was done (--dry-run)")
    elif not steps:
        typer.echo("done here; no shared table has changed")


def _read(file: str) -> str:
    from atoll.domain.errors import ConfigError

    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("file-unreadable", f"cannot read {file}", detail=f"{error}.") from error


async def _migrate(home: Home, statements: str, dry_run: bool, force: bool) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    from atoll.sql import query
    from atoll.sql.errors import explained

    try:
        async with await _connect(home) as connection, connection.transaction(force_rollback=dry_run):
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query("tables", "migrate"), (statements, force))
            return await cursor.fetchall()
    except psycopg.errors.ActiveSqlTransaction as error:
        found = explained(error)
        found.hint = "A migration is one transaction. Run this alone: atoll sql -c; it travels all the same."
        raise found from error
    except psycopg.Error as error:
        raise explained(error) from error


async def _connect(home: Home) -> AsyncConnection[Any]:
    """As the application's role, which owns its tables; on a server of somebody else, as the node's."""
    import psycopg

    from atoll.node import credentials

    if foreign_postgres(home) is not None:
        return await running_postgres(home).connect()
    address = credentials.dsn(home, postgres_port(home))
    return await psycopg.AsyncConnection.connect(address, autocommit=True)
