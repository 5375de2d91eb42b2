"""Rows for commands: a named statement run once on the node's database, and rows as a table for people."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from psycopg import AsyncConnection

    from atoll.node.postgres.server import Postgres

SETTLE_SECONDS_MAX = 5.0


def fetch(postgres: Postgres, file: str, name: str, parameters: Any = None) -> list[dict[str, Any]]:
    """The rows of a statement of sql/queries, as dictionaries."""
    return asyncio.run(_fetch(postgres, file, name, parameters))


def change(postgres: Postgres, file: str, name: str, parameters: Any = None) -> list[dict[str, Any]]:
    """As `fetch`, of what the node's process goes by: it does when this returns, unless it is very busy."""
    return asyncio.run(_fetch(postgres, file, name, parameters, settles=True))


async def _fetch(
    postgres: Postgres, file: str, name: str, parameters: Any, settles: bool = False
) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    from atoll.sql import query
    from atoll.sql.errors import explained

    try:
        async with await postgres.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query(file, name), parameters)
            found = await cursor.fetchall() if cursor.description else []
            if settles:
                await _settle(connection)
            return found
    except psycopg.Error as error:
        raise explained(error) from error


async def _settle(connection: AsyncConnection[Any]) -> None:
    """Until the node's process has seen what is committed; not for ever, for what is written stays so."""
    import typer

    from atoll.sql import query

    await connection.execute(query("nodes", "hear_settled"))
    await connection.execute(query("nodes", "settle"), (token := secrets.token_hex(8),))
    async for note in connection.notifies(timeout=SETTLE_SECONDS_MAX):
        if note.payload == token:
            return
    typer.echo("note: it is written; the node is busy, and goes by it later", err=True)


PIPE_WIDTH = 240


def print_table(titles: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table as wide as the terminal; in a pipe, one line a row."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPE_WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def readable_key(key: str) -> str:
    """A receipt's key, as PostgreSQL prints an array, in the way a person writes it."""
    return key.removeprefix("{").removesuffix("}") if key.startswith("{") else json.dumps(key)
