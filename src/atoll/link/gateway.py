"""PostgreSQL's way through the links: a local Unix socket per peer, and the far end of streams.

A subscription connects to `<folder>/.s.PGSQL.<peer number>`; each connection becomes a stream, and the peer's
gateway connects it to its PostgreSQL after the startup filter. The bytes are otherwise not looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from atoll.domain.errors import AtollError, ConfigError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.bridge import Bridge
from atoll.link.peers import Links
from atoll.link.startup import FrontendGuard, Rules, encode_error
from atoll.link.stream import Stream

log = logging.getLogger("atoll.link")

SOCKET_PATH_BYTES_MAX = 107
LINK_SECONDS_MAX = 60.0
CONNECTION_FAILURE = "08006"
TOO_MANY_CONNECTIONS = "53300"


class Gateway:
    def __init__(
        self,
        links: Links,
        *,
        folder: Path,
        postgres_socket: Path,
        rules: Rules | None = None,
        owner_uid: int | None = None,
        link_seconds_max: float = LINK_SECONDS_MAX,
    ) -> None:
        """`owner_uid` is the operating-system user of PostgreSQL when it is not the node's own."""
        self._link_seconds_max = link_seconds_max
        self._links = links
        self._folder = folder
        self._postgres_socket = postgres_socket
        self._rules = rules or Rules()
        self._owner_uid = owner_uid
        self._servers: dict[int, asyncio.Server] = {}
        self._bridges: set[Bridge] = set()
        self._opening: set[asyncio.Task[None]] = set()
        links.serve_streams(self.serve)

    @property
    def open_bridges(self) -> int:
        """Connections of PostgreSQL that pass through now, in either direction."""
        return len(self._bridges)

    async def set_peers(self, numbers: Iterable[int]) -> None:
        """Make a socket for each peer, remove those of peers that are gone."""
        wanted = set(numbers) - {self._links.me.number}
        for number in self._servers.keys() - wanted:
            await self._remove(number)
        for number in sorted(wanted - self._servers.keys()):
            self._servers[number] = await self._listen(number)

    async def stop(self) -> None:
        for number in list(self._servers):
            await self._remove(number)
        for task in list(self._opening):
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for bridge in list(self._bridges):
            bridge.close()

    def socket_path(self, number: int) -> Path:
        return self._folder / f".s.PGSQL.{number}"

    async def serve(self, peer: PeerIdentity, stream: Stream) -> None:
        """The far end: connect an arriving stream to our PostgreSQL, behind the filter."""
        rules = self._rules
        guard = FrontendGuard(replace(rules, peer=peer.number) if rules.only_subscriptions else rules)
        who = f'node "{peer.name}"'

        def refused(message: str) -> None:
            self._links.refuse("startup", who, message)

        bridge = self._make_bridge(guard=guard, refused=refused)
        loop = asyncio.get_running_loop()
        try:
            await loop.create_unix_connection(lambda: bridge, str(self._postgres_socket))
        except OSError as error:
            self._bridges.discard(bridge)
            message = f'could not connect to PostgreSQL of node "{self._links.me.name}"'
            log.warning("%s: %s", message, error)
            stream.send(encode_error(message, CONNECTION_FAILURE, detail=f"{error}."))
            stream.close(LinkError("postgres-away", message, detail=f"{error}."))
            return
        bridge.join(stream)

    async def _listen(self, number: int) -> asyncio.Server:
        path = self.socket_path(number)
        if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(
                "socket-path-too-long",
                f'cannot listen on "{path}": the path is longer than {SOCKET_PATH_BYTES_MAX} bytes',
                hint="Choose a shorter home.",
            )
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

        def accept() -> Bridge:
            return self._make_bridge(connected=lambda bridge: self._start_opening(number, bridge))

        server = await asyncio.get_running_loop().create_unix_server(accept, str(path))
        path.chmod(0o700)
        if self._owner_uid is not None:
            os.chown(self._folder, self._owner_uid, -1)
            os.chown(path, self._owner_uid, -1)
        return server

    async def _remove(self, number: int) -> None:
        server = self._servers.pop(number)
        server.close()
        with contextlib.suppress(FileNotFoundError):
            self.socket_path(number).unlink()

    def _make_bridge(self, **options: object) -> Bridge:
        bridge = Bridge(gone=self._bridges.discard, **options)  # type: ignore[arg-type]
        self._bridges.add(bridge)
        return bridge

    def _start_opening(self, number: int, bridge: Bridge) -> None:
        if len(self._opening) >= self._links.settings.streams_max:
            bridge.refuse(encode_error("too many connections wait for a link", TOO_MANY_CONNECTIONS))
            return
        task = asyncio.create_task(self._open(number, bridge), name=f"open stream to {number}")
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, number: int, bridge: Bridge) -> None:
        """The near end: a local connection has come in and is held until the peer has been reached."""
        try:
            # PostgreSQL tries again five times a second; waiting here instead costs nothing and is quicker.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._link_seconds_max):
                    await self._links.until_up(number)
            stream = await self._links.open_stream(number)
        except AtollError as error:
            bridge.refuse(
                encode_error(error.message, CONNECTION_FAILURE, detail=error.detail, hint=error.hint)
            )
        except BaseException:
            bridge.close()
            raise
        else:
            bridge.join(stream)
