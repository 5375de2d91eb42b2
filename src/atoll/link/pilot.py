"""Leads peers' streams into somebody else's PostgreSQL: over TCP or a socket, with TLS and a password.

The gateway speaks to a Unix socket of the node's own, behind its filter. The pilot listens there, connects to
the real server as the link's role, proves itself, and then passes the bytes. libpq can prove itself too, but
cannot hand over a connection that a walsender streams on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atoll.link import packets, scram
from atoll.link.splice import close, splice
from atoll.link.startup import encode_error

CONNECT_SECONDS_MAX = 10.0
CONNECTIONS_MAX = 256
NONCE_BYTES = 18
CONNECTION_FAILURE = "08006"
log = logging.getLogger("atoll.link")

Streams = tuple[StreamReader, StreamWriter]


@dataclass(frozen=True)
class Harbour:
    """Where the server is, and as whom the link comes in."""

    host: str
    port: int
    database: str
    user: str
    password: str
    tls: ssl.SSLContext | None
    is_tls_required: bool = False

    @property
    def is_socket(self) -> bool:
        return self.host.startswith("/")


class Unwelcome(Exception):
    """The server does not let us in; `response` is what it said, or what stands for it."""

    def __init__(self, message: str, response: bytes | None = None) -> None:
        super().__init__(message)
        self.response = response or encode_error(message, CONNECTION_FAILURE)


class Pilot:
    def __init__(self, path: Path, harbour: Callable[[], Harbour]) -> None:
        """`harbour` is asked for each connection: a server of several hosts moves now and then."""
        self._path = path
        self._harbour = harbour
        self._server: asyncio.Server | None = None
        self._trips: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._welcome, str(self._path))
        self._path.chmod(0o700)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for trip in list(self._trips):
            trip.cancel()
        await asyncio.gather(*self._trips, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _welcome(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._trips.add(task)
        try:
            await self._lead(reader, writer)
        except asyncio.CancelledError:
            # The pilot stops; a task that ends cancelled would be reported as an error by the server.
            pass
        finally:
            self._trips.discard(task)
            writer.close()

    async def _lead(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                if len(self._trips) > CONNECTIONS_MAX:
                    raise Unwelcome("too many connections to the node's PostgreSQL")
                _, body = await packets.read_startup(reader)
                harbour = self._harbour()
                outer = await enter(harbour, packets.parse_startup(body))
        except Unwelcome as error:
            log.warning("could not lead a peer to PostgreSQL: %s", error)
            writer.write(error.response)
            await close(writer)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.warning("could not lead a peer to PostgreSQL: %s", error or "it took too long")
            writer.write(encode_error("could not connect to the node's PostgreSQL", CONNECTION_FAILURE))
            await close(writer)
        else:
            writer.write(packets.authentication(packets.OK))
            await splice((reader, writer), outer)


async def enter(harbour: Harbour, parameters: dict[str, str]) -> Streams:
    """A connection to the server that has been let in, with what the client wanted of it otherwise."""
    reader, writer = await _connect(harbour)
    try:
        told = {**parameters, "user": harbour.user, "database": harbour.database}
        writer.write(packets.startup(told))
        await _prove(harbour, reader, writer)
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def _connect(harbour: Harbour) -> Streams:
    if harbour.is_socket:
        return await asyncio.open_unix_connection(os.path.join(harbour.host, f".s.PGSQL.{harbour.port}"))
    reader, writer = await asyncio.open_connection(harbour.host, harbour.port)
    if harbour.tls is None:
        return reader, writer
    try:
        writer.write(packets.ssl_request())
        # One byte and nothing after it: what came in the clear must not pass for what is private.
        answer = await reader.read(8)
        if answer == b"S":
            await writer.start_tls(harbour.tls, server_hostname=harbour.host)
        elif answer != b"N" or harbour.is_tls_required:
            raise Unwelcome("the node's PostgreSQL does not speak TLS, and its address demands it")
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def _prove(harbour: Harbour, reader: StreamReader, writer: StreamWriter) -> None:
    """Answer what the server asks until it says that we are in."""
    client = scram.Client(harbour.password, secrets.token_urlsafe(NONCE_BYTES))
    has_answered = is_checked = False
    while True:
        kind, body = await packets.read_message(reader)
        if kind == b"E":
            raise Unwelcome("PostgreSQL refuses the link's role", packets.message(kind, body))
        if kind == b"v":
            continue
        if kind != packets.AUTHENTICATION or len(body) < 4:
            raise Unwelcome("PostgreSQL did not begin as it should")
        code, rest = int.from_bytes(body[:4], "big"), body[4:]
        if code == packets.OK and has_answered == is_checked:
            return
        if code == packets.SASL and scram.MECHANISM.encode() in rest.split(b"\0"):
            writer.write(packets.sasl_first(scram.MECHANISM, client.first()))
        elif code == packets.SASL_CONTINUE and not has_answered:
            writer.write(packets.password(client.final(rest)))
            has_answered = True
        elif code == packets.SASL_FINAL:
            client.check(rest)
            is_checked = True
        elif code == packets.MD5:
            writer.write(packets.password(md5_answer(harbour, rest) + b"\0"))
        elif code == packets.CLEAR_TEXT and (harbour.is_socket or harbour.is_tls_required):
            writer.write(packets.password(harbour.password.encode() + b"\0"))
        else:
            raise Unwelcome("PostgreSQL asks for a password in a way that is not safe or not known")


def md5_answer(harbour: Harbour, salt: bytes) -> bytes:
    inner = hashlib.md5(harbour.password.encode() + harbour.user.encode(), usedforsecurity=False).hexdigest()
    return b"md5" + hashlib.md5(inner.encode() + salt, usedforsecurity=False).hexdigest().encode()
