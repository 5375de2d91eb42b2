"""The door for somebody else's PostgreSQL: it comes over TCP, shows a password, and is led to a peer.

A subscription on such a server dials HOST:PORT as user `node_N`. The door asks for the password by SCRAM
(and, except on this machine, for TLS first) and passes the connection on to the gateway's socket of node N.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from pathlib import Path

from atoll.link import packets, scram
from atoll.link.splice import close, splice
from atoll.link.startup import Rules, encode_error

HANDSHAKE_SECONDS_MAX = 10.0
CONNECTIONS_MAX = 256
SALT_BYTES = 16
NONCE_BYTES = 18
NOT_PROVED = "28P01"
NOT_ALLOWED = "28000"
TOO_MANY = "53300"
AWAY = "08006"
log = logging.getLogger("atoll.link")

Streams = tuple[StreamReader, StreamWriter]


class Turned(Exception):
    """Not let in; `response` is what the visitor is told."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.response = encode_error(message, sqlstate)


class Door:
    def __init__(
        self,
        *,
        password: str,
        socket_of: Callable[[int], Path],
        tls: ssl.SSLContext | None,
        rules: Rules | None = None,
    ) -> None:
        """With `tls`, nobody comes in without it."""
        self._password = password
        self._socket_of = socket_of
        self._tls = tls
        self._rules = rules or Rules()
        self._server: asyncio.Server | None = None
        self._visits: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> None:
        self._server = await asyncio.start_server(self._welcome, host, port)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for visit in list(self._visits):
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    async def _welcome(self, reader: StreamReader, writer: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._visits.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            # The door closes; a task that ends cancelled would be reported as an error by the server.
            pass
        finally:
            self._visits.discard(task)
            writer.close()

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                if len(self._visits) > CONNECTIONS_MAX:
                    raise Turned("too many connections", TOO_MANY)
                number, parameters = await self._let_in(reader, writer)
                inner = await self._lead(number, parameters)
        except Turned as error:
            log.warning("a connection to the door was turned away: %s", error)
            writer.write(error.response)
            await close(writer)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            log.info("a connection to the door ended early: %s", error)
        else:
            await splice((reader, writer), inner)

    async def _let_in(self, reader: StreamReader, writer: StreamWriter) -> tuple[int, dict[str, str]]:
        """The peer that is wanted, from a visitor that has proved itself."""
        code, body = await packets.read_startup(reader)
        is_private = False
        for _ in range(2):
            if code == packets.SSL_REQUEST and self._tls is not None and not is_private:
                writer.write(b"S")
                await writer.start_tls(self._tls)
                is_private = True
            elif code in (packets.SSL_REQUEST, packets.GSS_REQUEST):
                writer.write(b"N")
            else:
                break
            code, body = await packets.read_startup(reader)
        if code >> 16 != packets.PROTOCOL >> 16:
            raise Turned(f"protocol request {code >> 16}.{code & 0xFFFF} is not allowed here", NOT_ALLOWED)
        if self._tls is not None and not is_private:
            raise Turned("TLS is required here", NOT_ALLOWED)
        parameters = packets.parse_startup(body)
        await self._prove(reader, writer)
        wanted = re.fullmatch(r"node_([1-9][0-9]{0,4})", parameters.get("user", ""))
        if wanted is None:
            raise Turned("the user of this door is node_N, where N is the number of a peer", NOT_ALLOWED)
        return int(wanted[1]), parameters

    async def _prove(self, reader: StreamReader, writer: StreamWriter) -> None:
        own = scram.Server(
            self._password, secrets.token_urlsafe(NONCE_BYTES), secrets.token_bytes(SALT_BYTES)
        )
        try:
            offer = scram.MECHANISM.encode() + b"\0\0"
            writer.write(packets.authentication(packets.SASL, offer))
            kind, body = await packets.read_message(reader)
            mechanism, first = packets.parse_sasl_first(body)
            if kind != b"p" or mechanism != scram.MECHANISM:
                raise Turned("the password has to be shown by SCRAM-SHA-256", NOT_ALLOWED)
            writer.write(packets.authentication(packets.SASL_CONTINUE, own.challenge(first)))
            _, final = await packets.read_message(reader)
            writer.write(packets.authentication(packets.SASL_FINAL, own.verify(final)))
        except scram.ScramError as error:
            raise Turned("password authentication failed at the node's door", NOT_PROVED) from error

    async def _lead(self, number: int, parameters: dict[str, str]) -> Streams:
        """To the gateway's socket of the peer, in the role and database that peers let in."""
        try:
            inner = await asyncio.open_unix_connection(str(self._socket_of(number)))
        except OSError as error:
            raise Turned(f"there is no peer with number {number}", AWAY) from error
        told = {**parameters, "user": self._rules.user, "database": self._rules.database}
        inner[1].write(packets.startup(told))
        return inner
