"""A server that is asked again and again: how it is reached, and connections to it that can be used again."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from atoll.runtimes.http.connection import Connection
from atoll.runtimes.http.replies import Reply

CONNECT_SECONDS_MAX = 10.0
# Many servers close after five seconds of rest: a request that is sent as they do is lost, or done twice.
IDLE_SECONDS_MAX, IDLE_MAX = 4.0, 64
NEXT_ADDRESS_SECONDS = 0.25  # until another address of the host is tried beside the first
PORTS = {"http": 80, "https": 443}


class Client:
    """`base` is an address in plain letters; `socket` reaches it here, with a connection for each request."""

    def __init__(
        self,
        base: str,
        silence_seconds: float,
        headers: Mapping[str, str] | None = None,
        socket: str | None = None,
    ) -> None:
        found = urlsplit(base)
        self._host = found.hostname or ""
        self._port = found.port or PORTS[found.scheme]
        self._next_address_seconds = NEXT_ADDRESS_SECONDS if _is_name(self._host) else None
        self._is_secret = found.scheme == "https"
        self._socket = socket
        self._silence_seconds = silence_seconds
        told = {
            "Host": found.netloc,
            "User-Agent": "atoll",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **({} if socket is None else {"Connection": "close"}),
            **(headers or {}),
        }
        self._path = found.path.rstrip("/")
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        self._secrets: ssl.SSLContext | None = None
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._preparing: asyncio.Task[None] | None = None
        self._is_closed = False

    async def ask(self, method: str, path: str, body: bytes = b"") -> tuple[Connection, Reply]:
        """The head of a reply, and where its body comes. Whoever has them gives them to `leave`."""
        head = f"{method} {self._path}{path} HTTP/1.1\r\n{self._fields}Content-Length: {len(body)}\r\n\r\n"
        connection = self._take() or await self._open()
        try:
            return connection, await connection.ask(head.encode() + body, self._silence_seconds)
        except BaseException:
            connection.close()
            raise

    def leave(self, connection: Connection) -> None:
        """It is kept for the next request where it can be, else closed; at once, whatever is on its way."""
        if self._socket is None and connection.is_free and len(self._idle) < IDLE_MAX:
            connection.rest(IDLE_SECONDS_MAX)
            self._idle.append(connection)
        else:
            connection.close()

    def prepare(self) -> None:
        """Where each request takes a connection of its own, the next one's is opened before it comes."""
        if self._socket is not None and not (self._idle or self._preparing):
            self._preparing = asyncio.create_task(self._prepare())

    async def _prepare(self) -> None:
        with contextlib.suppress(OSError):  # whoever asks next finds out
            connection = await self._open()
            connection.rest(IDLE_SECONDS_MAX)
            self._idle.append(connection)
        self._preparing = None

    def close(self) -> None:
        """Requests that are under way break off."""
        self._is_closed = True
        if self._preparing is not None:
            self._preparing.cancel()
        for connection in list(self._connections):
            connection.close()

    def _take(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_free:
                return connection
        return None

    async def _open(self) -> Connection:
        if self._is_closed:
            raise ConnectionAbortedError("it is not asked any more")
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                connection = await self._connect()
        except TimeoutError:
            raise ConnectionError("it was not accepted in time") from None
        self._connections.add(connection)
        if self._is_closed:
            connection.close()
        return connection

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        make = lambda: Connection(self._forget)  # noqa: E731
        if self._socket is not None:
            return (await loop.create_unix_connection(make, self._socket))[1]
        if self._is_secret and self._secrets is None:
            self._secrets = await asyncio.to_thread(ssl.create_default_context)
        _, found = await loop.create_connection(
            make, self._host, self._port, ssl=self._secrets, happy_eyeballs_delay=self._next_address_seconds
        )
        return found

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _is_name(host: str) -> bool:
    """There may be several addresses behind it. Their race may lose a socket where it is broken off."""
    try:
        ip_address(host)
    except ValueError:
        return True
    return False
