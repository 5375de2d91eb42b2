"""Each start of a node: judged against what home and database remember, and remembered in both.

Where the judgement is that the node was restored, it takes another number here and now, before anything is
written under the old one. A certificate for the new number is standing's part; until there is one the node
serves its own site.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from psycopg import AsyncConnection

from atoll.data.replication import subscriptions
from atoll.data.replication.steps import Step
from atoll.identity import authority, certificate
from atoll.node.config import Settings
from atoll.node.home import Home, write_file
from atoll.node.mesh import membership
from atoll.node.mesh.recall import (
    DatabaseMemory,
    HomeMemory,
    Judgement,
    Verdict,
    choose_number,
    judge_memories,
)
from atoll.sql import query

MEMORY = "incarnation.json"
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


def remembered(home: Home) -> HomeMemory | None:
    """What the home remembers of the last start; a file that cannot be read is no memory."""
    try:
        return HomeMemory(**json.loads((home.path / MEMORY).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def remember(home: Home, memory: HomeMemory) -> None:
    write_file(home.path / MEMORY, json.dumps(asdict(memory)) + "\n")


async def come_up(connection: Connection, home: Home, settings: Settings) -> Judgement:
    """Judge this start and write it down, after a new number has been taken where that is needed."""
    memory = remembered(home)
    row = await (await connection.execute(query("recall", "facts"))).fetchone()
    assert row is not None
    found = DatabaseMemory(row[3], row[0], row[1], row[4], row[5])
    judgement = judge_memories(memory, found)
    if judgement.verdict is Verdict.RESTORED:
        await take_number(connection, home, settings, judgement.why)
        if memory is not None and memory.is_restored:
            for statement in ("open_writes", "reload"):
                await connection.execute(query("recall", statement))
    await begin(connection, home, memory, found.system_id)
    return judgement


async def begin(connection: Connection, home: Home, memory: HomeMemory | None, system_id: str) -> str:
    """A new incarnation. A crash at any place here leaves one that the next start knows."""
    made = secrets.token_hex(8)
    old = memory or HomeMemory("")
    remember(home, replace(old, following=made))
    async with connection.transaction():
        await connection.execute(query("recall", "begin"), (made,))
        await connection.execute(query("recall", "forget_oldest"))
    remember(home, HomeMemory(made, None, system_id))
    return made


async def take_number(
    connection: Connection, home: Home, settings: Settings, why: str, rng: random.Random | None = None
) -> int:
    """End what hangs on the old number, take a new one, and certify it where the authority is at home."""
    for peer in await subscriptions.read(connection):
        await subscriptions.take(connection, Step.DROP, peer=peer, me=0, where="")
    known = {number for (number,) in await (await connection.execute(query("recall", "numbers"))).fetchall()}
    number = choose_number(known, rng or random.SystemRandom())
    certified = certificate.load_identity(home.keys).me.number
    async with connection.transaction():
        await connection.execute(query("recall", "end_links"))
        await connection.execute(query("recall", "take_number"), (number, why))
        await connection.execute(query("recall", "note_former"), (certified, why))
    log.warning("this node has taken the number %s: %s", number, why)
    if membership.may_admit(home):
        await certify(connection, home, settings)
    return number


async def certify(connection: Connection, home: Home, settings: Settings) -> None:
    """The authority is here: a certificate of the same key for the number that the database has."""
    row = await (await connection.execute(query("nodes", "own_identity"))).fetchone()
    assert row is not None
    key = (home.keys / certificate.KEY_FILE).read_text()
    issuer = authority.load(home.keys)
    now = datetime.now(UTC)
    issued = issuer.issue(
        certificate.make_request(key, settings.name), number=row[1], name=settings.name, now=now
    )
    identity = certificate.save_identity(
        home.keys, key_pem=key, certificate_pem=issued, authority_pem=issuer.pem
    )
    former = [number for number, _ in await (await connection.execute(query("recall", "former"))).fetchall()]
    async with connection.transaction():
        await connection.execute(query("recall", "retire"), (former,))
        await connection.execute(query("nodes", "add_own_row"), membership.own_row(identity, settings))
