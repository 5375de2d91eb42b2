"""Dials peers for `Links`: at which address, with which greeting, as whom.

The address that worked last comes first; an override (a forwarded port, a test's weather) replaces them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import Identity, PeerIdentity
from atoll.link.dial import Expected, Renumbered, dial
from atoll.link.frame import Framed
from atoll.link.greeting import Hello, Purpose
from atoll.link.report import Peer
from atoll.link.settings import LinkSettings
from atoll.link.slot import Slot
from atoll.link.tls import make_client_context


class Dialler:
    def __init__(
        self,
        identity: Identity,
        settings: LinkSettings,
        *,
        release: str,
        boot: str,
        overrides: Mapping[str, str],
        live: set[Framed],
        renumbered: Callable[[int, PeerIdentity], None],
    ) -> None:
        self._me = identity.me
        self._settings = settings
        self._release = release
        self._boot = boot
        self._overrides = dict(overrides)
        self._live = live
        self._renumbered = renumbered
        self._context = make_client_context(identity)

    def addresses(self, peer: Peer) -> tuple[str, ...]:
        override = self._overrides.get(peer.name) or self._overrides.get(str(peer.number))
        return (override,) if override else peer.addresses

    async def connect(self, slot: Slot, purpose: Purpose, stream: str = "") -> Framed:
        """The greeted connection at the first address that answers; the slot learns who it was."""
        error: AtollError = LinkError("no-address", f'node "{slot.peer.name}" has no address to dial')
        hello = Hello(purpose, self._release, self._boot, self._me.number, stream)
        expected = Expected(self._me.atoll_id, slot.peer.number, slot.peer.name)
        for address in slot.in_order(self.addresses(slot.peer)):
            try:
                framed, peer, welcome = await dial(
                    address, self._context, self._settings, hello, expected, self._live
                )
            except AtollError as failure:
                if isinstance(failure, Renumbered):
                    self._renumbered(slot.peer.number, failure.peer)
                error = failure
                continue
            slot.identity, slot.good_address = peer, address
            slot.peer_boot = str(welcome.get("boot", ""))
            return framed
        raise error
