"""Reading a file that another member wrote for this node, and merging what is in it.

It is read twice: once to be sure that it is whole and from whom it says, then to merge it. Merging goes the
way that changes of a link go, a change at a time; doing it again changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from psycopg import AsyncConnection

from atoll.data.transfer.lines import unpack
from atoll.domain.errors import ConfigError, DataError, PolicyDenied
from atoll.identity import certificate
from atoll.identity.certificate import Identity
from atoll.identity.sealed import Header, unseal
from atoll.sql import query

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class BroughtIn:
    sender: str
    made_at: str
    was_read: bool
    """It had been imported before."""
    parked: int
    """Changes that could not be merged yet."""
    rows: Mapping[str, int]
    """By table: how many rows said something new."""


async def bring_in(connection: Connection, identity: Identity, path: Path) -> BroughtIn:
    """Merge a file; a file that is not whole, not for this node, or not from a member changes nothing."""
    header = check(identity, path)
    if not await _value(connection, "is_member", (header.sender,)):
        raise PolicyDenied(
            "revoked",
            f"cannot import the file: node {header.sender} is no member",
            hint="See who is: atoll nodes",
        )
    if await _value(connection, "is_absent", (header.sender,)):
        raise PolicyDenied(
            "import-absent",
            f"cannot import the file: node {header.sender} was away for too long",
            detail="The file may hold rows that have been deleted and forgotten here.",
            hint="Let it return over a link first, or admit it anew.",
        )
    if header.base is not None and not await _value(connection, "is_received", (header.base,)):
        raise DataError(
            "transfer-gap",
            "cannot import the file: it builds on another that has not been imported here",
            hint="Import that one first, or have one made with --since all.",
        )
    was_read = bool(await _value(connection, "is_received", (header.id,)))
    pass_on = bool(await _value(connection, "has_others", (header.sender,)))
    rows: dict[str, int] = {}
    parked = 0
    with path.open("rb") as source:
        _, pieces = _unseal(identity, source)
        for change in unpack(pieces):
            content = json.dumps(asdict(change) | {"origin": header.sender})
            found = await (await connection.execute(query("transfer", "take"), (content, pass_on))).fetchone()
            assert found is not None
            parked += not found[1]
            rows[change.tbl] = rows.get(change.tbl, 0) + int(found[0])
    async with connection.transaction():
        await connection.execute(query("transfer", "read"), (header.id, header.sender))
        await connection.execute(query("transfer", "know"), (header.sender, header.certificate))
        if header.received is not None:
            await connection.execute(query("transfer", "arrived"), (header.received,))
        await connection.execute(query("transfer", "forget"), {"peer": header.sender})
    name = certificate.read_pem(header.certificate).name
    return BroughtIn(name, header.made_at, was_read, parked, rows)


def check(identity: Identity, path: Path) -> Header:
    """Read all of it without doing anything."""
    try:
        with path.open("rb") as source:
            header, pieces = _unseal(identity, source)
            for _ in unpack(pieces):
                pass
    except OSError as error:
        raise ConfigError(
            "transfer-missing", f"could not read {path}", detail=f"{error.strerror or error}."
        ) from error
    return header


def _unseal(identity: Identity, source: IO[bytes]) -> tuple[Header, Iterator[bytes]]:
    key = identity.key_path.read_text("ascii")
    return unseal(source, key_pem=key, authority_pem=identity.authority_pem, me=identity.me)


async def _value(connection: Connection, name: str, parameters: tuple[Any, ...]) -> Any:
    row = await (await connection.execute(query("transfer", name), parameters)).fetchone()
    return row[0] if row else None
