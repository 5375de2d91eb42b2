"""Brings a database's `atoll` schema up to this version, in one transaction."""

from __future__ import annotations

import hashlib
import re
from importlib import resources
from typing import TYPE_CHECKING, LiteralString

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from psycopg import AsyncConnection
    from psycopg.rows import TupleRow

SWITCHING = re.compile(r" set session_replication_role = \w+(?= as \$)")


def sql_files(folder: str) -> list[Traversable]:
    """The .sql files of a folder, in order of their names."""
    found = [f for f in resources.files("atoll.sql").joinpath(folder).iterdir() if f.name.endswith(".sql")]
    return sorted(found, key=lambda f: f.name)


def read(file: Traversable) -> LiteralString:
    return file.read_text("utf-8")


def for_role(text: LiteralString, may_switch: bool) -> LiteralString:
    """A function file as this role may install it: PostgreSQL refuses a setting that the role may not change.

    functions/33_rights.sql makes up for what is left out.
    """
    return text if may_switch else SWITCHING.sub("", text)


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
        switch = "select has_parameter_privilege(current_user, 'session_replication_role', 'set')"
        row = await (await connection.execute(switch)).fetchone()
        may_switch = bool(row and row[0])
        for file in sql_files("functions"):
            await connection.execute(for_role(read(file), may_switch))
            version.update(file.read_bytes())
        await connection.execute("select atoll.render_anew(%s)", (version.hexdigest(),))
        await connection.execute("select atoll.settle_in()")
