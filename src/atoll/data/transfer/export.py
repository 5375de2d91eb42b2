"""Writing what a member lacks into a file for it: everything, or what changed since an earlier file.

All of it is read in one snapshot. What the member may not have does not get into the file.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from psycopg import AsyncConnection

from atoll.data.transfer.lines import Change, Packer
from atoll.domain.errors import ConfigError, DataError
from atoll.identity import certificate
from atoll.identity.certificate import Identity
from atoll.identity.sealed import Sealer
from atoll.sql import query

FETCH_ROWS = 20

Connection = AsyncConnection[tuple[Any, ...]]


class Since(StrEnum):
    ARRIVED = "arrived"
    """The last file that the member says it has read."""
    LAST = "last"
    """The last file that was written for it."""
    ALL = "all"


@dataclass(frozen=True)
class Exported:
    path: Path
    receiver: str
    base: str | None
    changes: int
    rows: Mapping[str, int]


async def export(
    connection: Connection,
    identity: Identity,
    path: Path,
    *,
    node: str,
    since: Since,
    certificate_pem: str | None,
    now: datetime,
) -> Exported:
    """A file for a member. It is there whole or not at all, and never over another."""
    number, name, pem = await _receiver(connection, identity, node, certificate_pem)
    made = str(uuid.uuid4())
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        async with connection.transaction():
            await connection.execute("set transaction isolation level repeatable read")
            base, horizon, age = await _since(connection, number, since)
            facts = {
                "id": made,
                "atoll_id": identity.me.atoll_id,
                "sender": identity.me.number,
                "receiver": number,
                "made_at": now.isoformat(timespec="seconds"),
                "base": base,
                "received": await _value(connection, "received", (number,)),
                "certificate": identity.certificate_path.read_text("ascii"),
            }
            with _create(unfinished) as file:
                sealer = Sealer(file, identity.key_path.read_text("ascii"), pem, **facts)
                rows, changes = await _write(connection, Packer(sealer.write), number, age)
                sealer.close()
                file.flush()
                os.fsync(file.fileno())
            await connection.execute(query("transfer", "sent"), (made, number, horizon))
            await connection.execute(query("transfer", "forget"), {"peer": number})
            _publish(unfinished, path)
    except OSError as error:
        raise ConfigError(
            "transfer-not-written", f"could not write {path}", detail=f"{error.strerror or error}."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return Exported(path, name, base, changes, rows)


async def _receiver(
    connection: Connection, identity: Identity, node: str, given: str | None
) -> tuple[int, str, str]:
    """Number, name and certificate of the member that the file is for."""
    row = await (await connection.execute(query("transfer", "receiver"), {"node": node})).fetchone()
    if row is None or row[3]:
        hint = "See who there is: atoll nodes"
        raise DataError("node-unknown", f'there is no other node "{node}" to export for', hint=hint)
    pem = given or row[2]
    if pem is None:
        raise ConfigError(
            "certificate-missing",
            f'cannot seal a file for node "{row[1]}": its certificate is not known here',
            detail="The two nodes have never had a link, nor has a file of it been imported here.",
            hint="Bring keys/node.pem of its home, and name it with --certificate. It is no secret.",
        )
    certificate.verify_member(pem, identity.authority_pem)
    if certificate.read_pem(pem).number != row[0]:
        raise ConfigError(
            "certificate-of-another",
            f'cannot seal a file for node "{row[1]}": the certificate is another node\'s',
            hint="Use keys/node.pem of its home as it is now.",
        )
    return int(row[0]), str(row[1]), str(pem)


async def _since(connection: Connection, number: int, since: Since) -> tuple[str | None, str, int]:
    """The file that this one builds on, the horizon of this one, and how old a row may be to be in it."""
    base: tuple[Any, ...] | None = None
    if since is not Since.ALL:
        only_arrived = since is Since.ARRIVED
        base = await (await connection.execute(query("transfer", "last"), (number, only_arrived))).fetchone()
    row = await (
        await connection.execute(query("transfer", "snapshot"), {"since": base[1] if base else None})
    ).fetchone()
    assert row is not None
    return (str(base[0]) if base else None), str(row[0]), int(row[1])


async def _write(
    connection: Connection, packer: Packer, receiver: int, age: int
) -> tuple[Mapping[str, int], int]:
    scopes = await _value(connection, "scopes", (receiver,))
    tables = [name for (name,) in await (await connection.execute(query("transfer", "tables"))).fetchall()]
    rows: dict[str, int] = {}
    changes = 0
    for table in tables:
        async with connection.cursor("atoll_export") as cursor:
            cursor.itersize = FETCH_ROWS
            await cursor.execute(query("transfer", "rows"), (table, scopes, age))
            async for op, at, ats, prev, n, cols, vals, scope in cursor:
                seq = int(await _value(connection, "number_change", ()))
                packer.write(Change(seq, table, op, at, ats, prev, n, cols, vals, scope))
                rows[table] = rows.get(table, 0) + n
                changes += 1
    packer.close()
    return rows, changes


async def _value(connection: Connection, name: str, parameters: tuple[Any, ...]) -> Any:
    row = await (await connection.execute(query("transfer", name), parameters)).fetchone()
    return row[0] if row else None


def _create(path: Path) -> IO[bytes]:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _publish(unfinished: Path, path: Path) -> None:
    try:
        os.link(unfinished, path)
    except FileExistsError as error:
        raise ConfigError(
            "transfer-exists", f"cannot write {path}: there is such a file", hint="Choose another name."
        ) from error
