"""The one port on which a node listens: TLS, the peer's certificate, and the first message within a deadline.

A connection without a certificate may ask for the authority or to join, and for nothing else. Whatever is
turned away is counted by reason. Admitted nodes are passed on with their greeting.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from atoll.domain.errors import AtollError, ConfigError, LinkError, PolicyDenied
from atoll.identity.certificate import Identity, PeerIdentity, read_peer
from atoll.link.frame import Framed
from atoll.link.greeting import Hello, Inbox, Purpose, choose_version, read_hello
from atoll.link.settings import LinkSettings
from atoll.link.tls import make_server_context
from atoll.link.traffic import Refusals

Admit = Callable[[Framed, PeerIdentity, Hello], Awaitable[None]]
AnswerStranger = Callable[[Purpose, dict[str, Any]], Awaitable[dict[str, Any]]]
IsRevoked = Callable[[int, str], bool]

ACCEPT_PAUSE_SECONDS = 0.2
CERTIFICATE_EXPIRED = 10


class Listener:
    def __init__(
        self,
        identity: Identity,
        settings: LinkSettings,
        refusals: Refusals,
        *,
        is_revoked: IsRevoked,
        admit: Admit,
        answer_stranger: AnswerStranger,
        live: set[Framed],
    ) -> None:
        self._identity = identity
        self._settings = settings
        self._refusals = refusals
        self._is_revoked = is_revoked
        self._admit = admit
        self._answer_stranger = answer_stranger
        self._live = live
        self._context = make_server_context(identity)
        self._socket: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def start(self, host: str, port: int) -> None:
        """Listen; a port in use is a ConfigError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=256)
        except OSError as error:
            raise ConfigError(
                "port-in-use" if error.errno == 98 else "listen-failed",
                f"could not listen for links on {host}:{port}",
                detail=f"{error}.",
                hint="Choose another address with --link HOST:PORT.",
            ) from error
        # asyncio does this for sockets that it has made itself; without it, small answers wait 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._listen(self._socket)

    async def stop(self) -> None:
        listening, self._socket = self._socket, None
        if listening is None:
            return
        if self._pause is not None:
            self._pause.cancel()
        asyncio.get_running_loop().remove_reader(listening)
        listening.close()
        # A task that is cancelled before its first step would never close the connection it was made for.
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _listen(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Called by the loop, so that no cancellation can lose a connection between here and its task."""
        loop = asyncio.get_running_loop()
        try:
            accepted, address = listening.accept()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # Out of file descriptors, or the caller hung up already: neither ends the listener.
            self._refusals.refuse("accept-failed", "a connection", str(error))
            loop.remove_reader(listening)
            self._pause = loop.call_later(ACCEPT_PAUSE_SECONDS, self._listen, listening)
            return
        who = f"{address[0]}:{address[1]}"
        if len(self._tasks) >= self._settings.strangers_max:
            self._refusals.refuse("crowded", who, "too many connections wait to be greeted")
            accepted.close()
            return
        task = loop.create_task(self._receive(accepted, who), name=f"greet {who}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _receive(self, accepted: socket.socket, who: str) -> None:
        """Everything up to the greeting happens under one deadline; failures are counted, never raised."""
        inbox = Inbox()
        framed: Framed | None = None
        accepted.setblocking(False)
        try:
            async with asyncio.timeout(self._settings.greeting_seconds_max):
                _, framed = await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: inbox.make_protocol(self._settings, self._live),
                    accepted,
                    ssl=self._context,
                    ssl_handshake_timeout=self._settings.greeting_seconds_max,
                    ssl_shutdown_timeout=self._settings.close_seconds_max,
                )
                peer = self._identify(framed)
                message = await inbox.next()
                await self._greet(framed, peer, message)
        except AtollError as error:
            self._refusals.refuse(error.code, who, error.message)
            if framed is not None:
                framed.close(error)
        except (OSError, TimeoutError) as error:
            reason, why = explain_handshake(error)
            self._refusals.refuse(reason, who, why)
            if framed is not None:
                framed.abort(LinkError(reason, why))
        finally:
            if framed is None:
                with contextlib.suppress(OSError):
                    accepted.close()

    def _identify(self, framed: Framed) -> PeerIdentity | None:
        der = framed.transport_info("ssl_object").getpeercert(binary_form=True)
        if der is None:
            return None
        peer = read_peer(der)
        if peer.atoll_id != self._identity.me.atoll_id:
            raise PolicyDenied("wrong-authority", f'node "{peer.name}" belongs to another atoll')
        if self._is_revoked(peer.number, peer.serial):
            raise PolicyDenied(
                "revoked",
                f'node "{peer.name}" (number {peer.number}) has been revoked',
                hint="Join again with a new token if that was not meant.",
            )
        if peer.number == self._identity.me.number:
            raise PolicyDenied(
                "own-number",
                f"a node dialled with this node's own number {peer.number}",
                hint="One home is running twice, or was copied: join again with one of the two.",
            )
        return peer

    async def _greet(self, framed: Framed, peer: PeerIdentity | None, message: dict[str, Any]) -> None:
        hello = read_hello(message)
        choose_version(hello.versions)
        if hello.purpose in (Purpose.AUTHORITY, Purpose.JOIN, Purpose.RENUMBER):
            framed.send_message(await self._answer_stranger(hello.purpose, message))
            framed.close()
        elif peer is None:
            raise PolicyDenied(
                "no-certificate",
                "a connection without a certificate asked for more than to join",
                hint="Join the atoll first: atoll join TOKEN.",
            )
        else:
            await self._admit(framed, peer, hello)


def explain_handshake(error: Exception) -> tuple[str, str]:
    """The reason to count, and what to write in the log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        expired = error.verify_code == CERTIFICATE_EXPIRED
        return ("certificate-expired" if expired else "wrong-authority"), error.verify_message
    if isinstance(error, TimeoutError):
        return "deadline", "it did not greet in time"
    if isinstance(error, ssl.SSLError):
        return "handshake", error.reason or str(error)
    return "broken-off", str(error) or "the connection broke"
