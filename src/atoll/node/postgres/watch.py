"""Keeps the ways to somebody else's PostgreSQL, notices when it is away, and says so.

It stands where the supervisor stands for the bundled server, and starts and stops only what is the node's
own: door and pilot. A lock in the database, held while the connection lives, keeps a second node out of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl

import psycopg

from atoll.domain.errors import ConfigError
from atoll.link.door import Door
from atoll.link.pilot import Pilot
from atoll.node.home import Home
from atoll.node.postgres.foreign import ForeignPostgres
from atoll.node.report import Readiness
from atoll.node.values import Address

ASK_EVERY_SECONDS = 5.0
ANSWER_SECONDS_MAX = 30.0
TRY_SECONDS_MIN = 0.2
TRY_SECONDS_MAX = 15.0
LOCK = "select pg_try_advisory_lock(x'61746f6c'::int, 7)"
SHAPES = "select name from atoll.changed_shapes() name"
log = logging.getLogger(__name__)


class Watch:
    """`run` returns when it was told to stop."""

    def __init__(
        self,
        server: ForeignPostgres,
        home: Home,
        gateway: Address,
        tls: ssl.SSLContext | None,
        readiness: Readiness,
    ) -> None:
        self._server = server
        self._gateway = gateway
        self._readiness = readiness
        self._stopping = asyncio.Event()
        self._door = Door(
            password=server.door.password, socket_of=lambda peer: home.peers / f".s.PGSQL.{peer}", tls=tls
        )
        self._pilot = Pilot(server.socket, server.harbour)
        self._pause = TRY_SECONDS_MIN
        self.restarts = 0
        self.answers = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    def hurry(self) -> None:
        """Nothing of ours takes long to end."""

    async def run(self) -> None:
        try:
            await self._door.start(self._gateway.host, self._gateway.port)
        except OSError as error:
            raise ConfigError(
                "address-unusable",
                f"cannot listen on {self._gateway}",
                detail=f"{error.strerror or error}.",
                hint="Choose another address with --gateway.",
            ) from error
        await self._pilot.start()
        stop = asyncio.create_task(self._stopping.wait())
        try:
            while not stop.done():
                watching = asyncio.create_task(self._one_connection())
                await asyncio.wait((watching, stop), return_when=asyncio.FIRST_COMPLETED)
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(stop), self._pause)
                self._pause = min(TRY_SECONDS_MAX, self._pause * 2)
        finally:
            stop.cancel()
            self.answers.clear()
            await self._door.stop()
            await self._pilot.stop()

    async def _one_connection(self) -> None:
        """From a connection to its loss."""
        try:
            async with await self._server.connect() as connection:
                row = await (await connection.execute(LOCK)).fetchone()
                if row is None or not row[0]:
                    self._hold("another node, or this one's last life, still uses the database")
                    return
                await self._while_it_answers(connection)
        except (psycopg.Error, OSError, TimeoutError) as error:
            words = str(error).strip().splitlines() or ["it took too long"]
            self._hold(f"PostgreSQL at {self._server.place} does not answer: {words[0]}")

    async def _while_it_answers(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        while True:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                row = await (await connection.execute("select pg_is_in_recovery()")).fetchone()
                if row is None or row[0]:
                    self._hold(f"PostgreSQL at {self._server.place} is a standby, which nobody can write on")
                    return
                self._pause = TRY_SECONDS_MIN
                self.answers.set()
                self._readiness.clear("postgres")
                await self._look_at_shapes(connection)
            await asyncio.sleep(ASK_EVERY_SECONDS)

    async def _look_at_shapes(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        """A role that may not make event triggers sees a change of a shared table only afterwards."""
        try:
            rows = await (await connection.execute(SHAPES)).fetchall()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            return
        if rows:
            names = ", ".join(str(name) for (name,) in rows)
            self._readiness.hold("shape", f"columns or keys were changed on this node alone: {names}")
        else:
            self._readiness.clear("shape")

    def _hold(self, reason: str) -> None:
        self.restarts += self.answers.is_set()
        self.answers.clear()
        self._readiness.hold("postgres", reason)
        log.debug("%s", reason)
