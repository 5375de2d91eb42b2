"""Who this node is: founded here with a new authority, or joined with a token; and the rows that say so.

The keys in the home are the truth about the identity. The database learns it at each start; a database that
already belongs to another node is refused.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from psycopg import AsyncConnection
from psycopg.types.json import Jsonb

from atoll.domain.errors import ConfigError, DataError
from atoll.identity import authority, certificate
from atoll.identity.certificate import Identity
from atoll.node.config import Settings
from atoll.node.home import Home, write_file
from atoll.sql import query

FOUNDER = 1
INTRODUCED = "introduced.json"


def has_identity(home: Home) -> bool:
    return (home.keys / certificate.CERTIFICATE_FILE).exists()


def may_admit(home: Home) -> bool:
    """The authority's key is here."""
    return (home.keys / authority.KEY_FILE).exists()


def own_identity(home: Home, settings: Settings) -> Identity:
    """This node's identity; a home that has none founds an atoll."""
    if not has_identity(home):
        found(home, settings)
    identity = certificate.load_identity(home.keys)
    if identity.me.name != settings.name:
        raise ConfigError(
            "name-fixed",
            f'the node of this home is called "{identity.me.name}", not "{settings.name}"',
            detail="Its certificate says so, and the other nodes know it by that name.",
            hint="Leave the name away, or join again under the new one with a new home.",
        )
    return identity


def found(home: Home, settings: Settings) -> None:
    """A new atoll, with this node as its first."""
    now = datetime.now(UTC)
    made = authority.create(now=now)
    key = certificate.make_key()
    request = certificate.make_request(key, settings.name)
    own = made.issue(request, number=FOUNDER, name=settings.name, now=now)
    made.save(home.keys)
    certificate.save_identity(home.keys, key_pem=key, certificate_pem=own, authority_pem=made.pem)


def settle(keys: Path, *, key_pem: str, joined: dict[str, Any]) -> Identity:
    """Keep what the admitting node gave us."""
    keys.mkdir(mode=0o700, exist_ok=True)
    write_file(keys / INTRODUCED, json.dumps(joined["peers"]))
    return certificate.save_identity(
        keys, key_pem=key_pem, certificate_pem=joined["certificate"], authority_pem=joined["authority"]
    )


def own_row(identity: Identity, settings: Settings) -> dict[str, Any]:
    """What the others are told about this node."""
    return {
        "number": identity.me.number,
        "name": identity.me.name,
        "region": settings.region,
        "tier": settings.tier,
        "addresses": [str(address) for address in settings.told_addresses],
    }


async def write_rows(
    connection: AsyncConnection[tuple[Any, ...]], home: Home, settings: Settings, identity: Identity
) -> None:
    """Tell the database who it belongs to, and the others what has changed about this node."""
    me = identity.me
    row = await (await connection.execute(query("nodes", "own_identity"))).fetchone()
    # Under another number it is this node at another time: restored, or waiting for a certificate.
    waits = row is not None and (row[0], row[2]) == (me.atoll_id, me.name) and row[1] != me.number
    if row is not None and (row[0], row[1]) != (me.atoll_id, me.number) and not waits:
        raise DataError(
            "database-of-another",
            f'the database in {home.data} belongs to node "{row[2]}", the keys in {home.keys} to "{me.name}"',
            hint="Restore keys and database from the same backup.",
        )
    founds = not (home.keys / INTRODUCED).exists()
    facts = {
        "atoll_id": me.atoll_id,
        **own_row(identity, settings),
        "founds": founds,
        "introduced": Jsonb([] if founds else json.loads((home.keys / INTRODUCED).read_text())),
    }
    if row is None:
        await connection.execute(query("nodes", "write_identity"), facts)
    await connection.execute("select atoll.settle_in()")
    bound = f"{settings.future_bound:g}"
    await connection.execute(query("nodes", "set_future_bound"), (bound, bound))
    if founds and not waits:
        await connection.execute(query("nodes", "add_own_row"), facts)
