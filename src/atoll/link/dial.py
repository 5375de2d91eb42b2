"""Dials a node: TCP, TLS with the one authority, the greeting; or says why not.

That the right node answered (atoll and number in its certificate) is checked here, before anything is said.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import AtollError, ConfigError, LinkError, PolicyDenied
from atoll.identity.certificate import PeerIdentity, read_peer
from atoll.link.frame import Framed
from atoll.link.greeting import Hello, Inbox
from atoll.link.settings import LinkSettings


@dataclass(frozen=True)
class Expected:
    """Who has to answer; no number when any node of the atoll will do."""

    atoll_id: str
    number: int | None = None
    name: str | None = None


class Renumbered(PolicyDenied):
    """The node of the expected name answered, under another number: it was restored."""

    def __init__(self, refusal: PolicyDenied, peer: PeerIdentity) -> None:
        super().__init__(refusal.code, refusal.message, hint=refusal.hint)
        self.peer = peer


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            "address-invalid", f'cannot use address "{address}"', hint="Write it as host:port, or [v6]:port."
        )
    return host.strip("[]"), int(port)


async def dial(
    address: str,
    context: ssl.SSLContext,
    settings: LinkSettings,
    hello: Hello | dict[str, Any],
    expected: Expected | None,
    live: set[Framed],
) -> tuple[Framed, PeerIdentity | None, dict[str, Any]]:
    """The greeted connection, who answered, and the welcome. The connection is held: adopt or close it."""
    host, port = split_address(address)
    inbox = Inbox()
    framed: Framed | None = None
    try:
        async with asyncio.timeout(settings.dial_seconds_max):
            _, framed = await asyncio.get_running_loop().create_connection(
                lambda: inbox.make_protocol(settings, live),
                host,
                port,
                ssl=context,
                server_hostname="",
                ssl_shutdown_timeout=settings.close_seconds_max,
            )
            peer = _check_peer(framed, expected) if expected else None
            framed.send_message(hello.as_message() if isinstance(hello, Hello) else hello)
            return framed, peer, await inbox.next()
    except BaseException as error:
        if framed is not None:
            framed.abort(LinkError("connection-closed", "the dial was given up"))
        if isinstance(error, AtollError) or not isinstance(error, Exception):
            raise
        raise _explain(error, address, settings) from error


def _check_peer(framed: Framed, expected: Expected) -> PeerIdentity:
    der = framed.transport_info("ssl_object").getpeercert(binary_form=True)
    peer = read_peer(der or b"")
    if peer.atoll_id == expected.atoll_id and peer.name == expected.name and peer.number != expected.number:
        refusal = PolicyDenied(
            "renumbered",
            f'node "{peer.name}" has another number now: {peer.number}',
            hint="It is known again by itself.",
        )
        raise Renumbered(refusal, peer)
    if peer.atoll_id != expected.atoll_id or expected.number not in (None, peer.number):
        raise PolicyDenied(
            "wrong-node",
            f'node "{peer.name}" (number {peer.number}) answered instead of node number {expected.number}',
            hint="Correct the address of that node, or the port that is forwarded to it.",
        )
    return peer


def _explain(error: Exception, address: str, settings: LinkSettings) -> AtollError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return PolicyDenied(
            "wrong-authority",
            f"the node at {address} does not belong to this atoll",
            detail=f"{error.verify_message}.",
            hint="Check the address, and that both nodes joined the same atoll.",
        )
    if isinstance(error, TimeoutError):
        return LinkError(
            "dial-timeout", f"{address} did not answer within {settings.dial_seconds_max:g} seconds"
        )
    if isinstance(error, OSError):
        return LinkError("dial-failed", f"could not connect to {address}", detail=f"{error}.")
    return LinkError("dial-failed", f"could not greet the node at {address}", detail=f"{error!r}.")
