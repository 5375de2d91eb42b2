"""Rows for commands: a named statement run once on the node's database, errors turned into words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg import Error

    from atoll.domain.errors import AtollError
    from atoll.node.postgres import Postgres


def fetch(postgres: Postgres, file: str, name: str, parameters: Any = None) -> list[dict[str, Any]]:
    """The rows of a statement of sql/queries, as dictionaries."""
    return asyncio.run(_fetch(postgres, file, name, parameters))


async def _fetch(postgres: Postgres, file: str, name: str, parameters: Any) -> list[dict[str, Any]]:
    import psycopg
    from psycopg.rows import dict_row

    from atoll.sql import query

    try:
        async with await postgres.connect() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query(file, name), parameters)
            return await cursor.fetchall() if cursor.description else []
    except psycopg.Error as error:
        raise explained(error) from error


def explained(error: Error) -> AtollError:
    """PostgreSQL's error, as ours."""
    from atoll.domain.errors import DataError, PolicyDenied

    diagnosis = error.diag
    kind = PolicyDenied if error.sqlstate == "AT003" else DataError
    return kind(
        diagnosis.constraint_name or error.sqlstate or "database",
        diagnosis.message_primary or str(error).strip(),
        detail=diagnosis.message_detail or None,
        hint=diagnosis.message_hint or None,
    )
