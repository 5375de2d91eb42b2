"""Moving: a node gets a place in another atoll, or a new one in its own, and its data comes along.

`atoll join` redeems the token and lays the new keys beside the old ones; that is the word to move. The
node's process, or its next start, then makes the database the new member's (sql/functions/49_moving.sql)
and swaps the keys. A crash at any place here leaves a home whose next start goes on.
"""

from __future__ import annotations

import json
import logging
import secrets
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.data.replication import subscriptions
from atoll.data.replication.steps import Step
from atoll.identity import certificate
from atoll.identity.certificate import Identity
from atoll.node.home import Home
from atoll.node.mesh import membership
from atoll.sql import query

log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


def ask(home: Home, *, key_pem: str, joined: dict[str, Any]) -> Identity:
    """Lay the keys of the new membership beside those of the old one, all at once."""
    draft = home.next_keys.with_name(f"{home.next_keys.name}.{secrets.token_hex(4)}")
    membership.settle(draft, key_pem=key_pem, joined=joined)
    draft.rename(home.next_keys)
    return called_to(home)


def is_asked(home: Home) -> bool:
    return home.next_keys.exists()


def called_to(home: Home) -> Identity:
    return certificate.load_identity(home.next_keys)


async def move(connection: Connection, home: Home) -> Identity:
    """Make database and home those of the new membership."""
    identity = called_to(home)
    row = await (await connection.execute(query("nodes", "own_identity"))).fetchone()
    if row is not None and (row[0], row[1]) != (identity.me.atoll_id, identity.me.number):
        for peer in await subscriptions.read(connection):
            await subscriptions.take(connection, Step.DROP, peer=peer, me=0, where="")
        facts = {
            "atoll_id": identity.me.atoll_id,
            "number": identity.me.number,
            "name": identity.me.name,
            "met": Jsonb(json.loads((home.next_keys / membership.INTRODUCED).read_text())),
        }
        is_back = row[0] == identity.me.atoll_id
        if not is_back:
            await connection.execute(query("members", "hold_writes"), (True,))
        async with connection.transaction():
            await connection.execute(query("moving", "move_back" if is_back else "move_in"), facts)
            await connection.execute("select atoll.settle_in()")
    is_moving = await (await connection.execute(query("moving", "is_moving"))).fetchone()
    await connection.execute(query("members", "hold_writes"), is_moving)
    # The old keys stay: whoever moved by mistake has them still.
    home.keys.rename(home.path / f"keys.before-{identity.me.number}-{identity.me.serial[:8]}")
    home.next_keys.rename(home.keys)
    log.warning('this node is now "%s", number %s, of atoll %s', *_words(identity))
    return certificate.load_identity(home.keys)


def _words(identity: Identity) -> tuple[str, int, str]:
    return identity.me.name, identity.me.number, identity.me.atoll_id
