"""A node's subscriptions to its peers, read and changed. Which change to make is topology's decision.

A subscription's statements cannot run in a transaction, so each takes a connection in autocommit.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from psycopg import sql as compose
from psycopg.conninfo import make_conninfo

from atoll.data.replication.steps import Step, Subscription
from atoll.sql import query

log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


def conninfo(sockets: Path, peer: int) -> str:
    """Where a peer's PostgreSQL is found: a socket of this node's gateway."""
    return make_conninfo(
        host=str(sockets),
        port=peer,
        dbname="atoll",
        user="atoll_link",
        sslmode="disable",
        gssencmode="disable",
    )


async def read(connection: Connection) -> Mapping[int, Subscription]:
    rows = await (await connection.execute(query("mesh", "subscriptions"))).fetchall()
    return {row[0]: Subscription(*row) for row in rows}


async def take(connection: Connection, step: Step, *, peer: int, me: int, where: str) -> None:
    """Carry one step out. SEED and NONE are not the database's."""
    name = compose.Identifier(f"atoll_from_{peer}")
    if step in (Step.BEGIN_ANEW, Step.DROP):
        await _drop(connection, name)
    elif step is Step.SUBSCRIBE:
        await connection.execute(
            compose.SQL(
                "create subscription {} connection {} publication {} with (slot_name = {},"
                " create_slot = false, binary = true, origin = any, copy_data = true, streaming = parallel)"
            ).format(
                name,
                compose.Literal(where),
                compose.Identifier(f"atoll_to_{me}"),
                compose.Literal(f"atoll_to_{me}"),
            )
        )
    elif step is Step.REDIRECT:
        await connection.execute(
            compose.SQL("alter subscription {} connection {}").format(name, compose.Literal(where))
        )
    elif step is Step.ENABLE:
        await connection.execute(compose.SQL("alter subscription {} enable").format(name))
    if step not in (Step.NONE, Step.SEED):
        log.info("%s from node %s", step.name.lower().replace("_", " "), peer)


async def _drop(connection: Connection, name: compose.Identifier) -> None:
    """Drop here only: the peer drops its slot by itself, and may be away."""
    await connection.execute(compose.SQL("alter subscription {} disable").format(name))
    await connection.execute(compose.SQL("alter subscription {} set (slot_name = none)").format(name))
    await connection.execute(compose.SQL("drop subscription {}").format(name))
