"""Brings a database's `atoll` schema up to this version, in one transaction."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import TYPE_CHECKING, LiteralString

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from psycopg import AsyncConnection
    from psycopg.rows import TupleRow


def sql_files(folder: str) -> list[Traversable]:
    """The .sql files of a folder, in order of their names."""
    found = [f for f in resources.files("atoll.sql").joinpath(folder).iterdir() if f.name.endswith(".sql")]
    return sorted(found, key=lambda f: f.name)


def read(file: Traversable) -> LiteralString:
    return file.read_text("utf-8")


async def install(connection: AsyncConnection[TupleRow]) -> None:
    """Runs new table files once and all function files again. Safe to repeat."""
    async with connection.transaction():
        cursor = await connection.execute("select to_regclass('atoll.migration') is not null")
        found = await cursor.fetchone()
        known: set[str] = set()
        if found and found[0]:
            applied = await connection.execute("select name from atoll.migration")
            known = {name for (name,) in await applied.fetchall()}
        await connection.execute("set local check_function_bodies = off")
        await connection.execute("set local client_min_messages = warning")
        for file in sql_files("tables"):
            if file.name not in known:
                await connection.execute(read(file))
                await connection.execute("insert into atoll.migration (name) values (%s)", (file.name,))
        version = hashlib.sha256()
        for file in sql_files("functions"):
            await connection.execute(read(file))
            version.update(file.read_bytes())
        await connection.execute("select atoll.render_anew(%s)", (version.hexdigest(),))
        await connection.execute("select atoll.settle_in()")
