"""A node's standing in its atoll: it takes part in the mesh for as long as its number is its own.

A node that has taken another number takes part again once the authority has certified that: it asks the
nodes that it knows, one after the other, and serves its own site meanwhile. A node that is called into
another atoll moves, and takes part there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg import AsyncConnection

from atoll import __version__
from atoll.domain.errors import AtollError, LinkError
from atoll.identity import certificate
from atoll.identity.certificate import Identity
from atoll.link import renumber
from atoll.link.peers import Links
from atoll.link.settings import LinkSettings
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.mesh import incarnation, membership, moving
from atoll.node.mesh.acquaintances import Displaced
from atoll.node.mesh.service import Mesh
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.observe.metrics import Metrics
from atoll.sql import query

ASK_EVERY_SECONDS = 3.0
LOOK_EVERY_SECONDS = 0.5
WAITING = "this node was restored and waits for a certificate of its new number"
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


class _Called(Exception):
    """Somebody has laid keys beside those of this node: it moves."""


class Standing:
    def __init__(
        self,
        home: Home,
        settings: Settings,
        postgres: Postgres,
        readiness: Readiness,
        metrics: Metrics,
        meet: Callable[[Links], None],
    ) -> None:
        """`meet` is told the links to peers, whenever there are new ones."""
        self._home = home
        self._settings = settings
        self._postgres = postgres
        self._readiness = readiness
        self._meet = meet
        self._mesh: Mesh | None = None
        metrics.add(self._numbers)

    async def run(self) -> None:
        while True:
            try:
                await self._take_part()
            except* Displaced as group:
                why = str(_first(group))
                log.warning("this node is not what its peers know: %s", why)
                await self._take_number(why)
            except* _Called:
                await self._until_done(self._move, "move")

    def _numbers(self) -> Iterable[Metric]:
        return self._mesh.numbers() if self._mesh is not None else ()

    async def _take_part(self) -> None:
        identity = await self._until_certified()
        async with await self._postgres.connect() as connection:
            rows = await (await connection.execute(query("recall", "history"))).fetchall()
        self._mesh = Mesh(
            self._home, self._settings, self._postgres, self._readiness, identity, boot=str(rows[-1][0])
        )
        self._meet(self._mesh.links)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._mesh.run())
            group.create_task(self._until_called())

    async def _until_called(self) -> None:
        while not moving.is_asked(self._home):
            await asyncio.sleep(LOOK_EVERY_SECONDS)
        raise _Called

    async def _move(self, connection: Connection) -> None:
        await moving.move(connection, self._home)

    async def _take_number(self, why: str) -> None:
        """The number is not this node's any more."""

        async def take(connection: Connection) -> None:
            await incarnation.take_number(connection, self._home, self._settings, why)

        await self._until_done(take, "take another number")

    async def _until_done(self, become: Callable[[Connection], Awaitable[None]], what: str) -> None:
        """Be another from now on. The database may be away for a while."""
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await become(connection)
                    memory = incarnation.remembered(self._home)
                    await incarnation.begin(
                        connection, self._home, memory, memory.system_id if memory else ""
                    )
                return
            except (psycopg.OperationalError, OSError) as error:
                log.warning("could not %s: %s", what, str(error).strip())
                await asyncio.sleep(ASK_EVERY_SECONDS)

    # A certificate for a new number

    async def _until_certified(self) -> Identity:
        """The identity whose number is the database's, asked for where it is not at home yet."""
        while True:
            identity = certificate.load_identity(self._home.keys)
            try:
                async with await self._postgres.connect() as connection:
                    row = await (await connection.execute(query("nodes", "own_identity"))).fetchone()
                    peers = await (await connection.execute(query("nodes", "peers"))).fetchall()
                    if row is None or row[1] == identity.me.number:
                        # Else it would take its own old row for a peer, and dial itself.
                        await connection.execute(query("recall", "retire_former"))
                        self._readiness.clear("number")
                        return identity
                    if membership.may_admit(self._home):
                        await incarnation.certify(connection, self._home, self._settings)
                        continue
                self._readiness.hold("number", WAITING)
                await self._ask(identity, int(row[1]), peers)
                continue
            except AtollError as error:
                self._readiness.hold("number", f"{WAITING}: {error.message}")
                if error.code == "number-taken":
                    await self._take_number("the number that it had taken was another's")
                    continue
            except (psycopg.Error, OSError) as error:
                log.warning("could not ask for a certificate: %s", str(error).strip())
            await asyncio.sleep(ASK_EVERY_SECONDS)

    async def _ask(self, identity: Identity, number: int, peers: list[tuple[Any, ...]]) -> None:
        """Ask each peer in turn; the first that may say so decides."""
        key = identity.key_path.read_text("ascii")
        wish = {
            "certificate": identity.certificate_path.read_text("ascii"),
            "csr": certificate.make_request(key, identity.me.name),
            "number": number,
            "addresses": [str(address) for address in self._settings.told_addresses],
        }
        failure: AtollError = LinkError("no-address", "no node is known that could be asked")
        for peer, name, _, _, addresses in peers:
            override = self._settings.dial.get(name) or self._settings.dial.get(str(peer))
            for address in [str(override)] if override else addresses:
                try:
                    issued = await renumber.ask(
                        address, identity, wish, release=__version__, settings=LinkSettings()
                    )
                except AtollError as error:
                    # Who says no for a reason has the last word; who is away or may not say has not.
                    if not isinstance(error, LinkError) and error.code != "no-authority":
                        raise
                    failure = error
                    continue
                certificate.save_identity(
                    self._home.keys,
                    key_pem=key,
                    certificate_pem=issued,
                    authority_pem=identity.authority_pem,
                )
                log.info("the number %s is certified", number)
                return
        raise failure


def _first(group: BaseException) -> BaseException:
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
