"""All links of one node: one control connection per peer, dialled by whoever can, and streams on demand.

The reconcile loop says who the peers are; this keeps a link to each. If both sides dialled, the link that the
lower number dialled stays. PostgreSQL's sockets are the gateway's part, admission the listener's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from atoll.domain.errors import AtollError, LinkError, PolicyDenied
from atoll.identity.certificate import Identity, PeerIdentity
from atoll.link.control import ControlLink, Handler
from atoll.link.dialler import Dialler
from atoll.link.frame import Framed
from atoll.link.greeting import VERSION_MAX, Hello, Purpose
from atoll.link.join import Invitations, answer_stranger
from atoll.link.openings import REQUESTS, Openings, ServeStream
from atoll.link.renumber import METHOD, Renumbering
from atoll.link.report import LinkReport, Peer
from atoll.link.server import IsRevoked, Listener
from atoll.link.settings import LinkSettings
from atoll.link.slot import Slot
from atoll.link.stream import Stream
from atoll.link.traffic import Refusals

DUPLICATE = LinkError("duplicate", "there is already a link between the two nodes")
PROBE_SECONDS_MAX = 2.0
CLOSE_POLL_SECONDS = 0.01


class Links:
    def __init__(
        self,
        identity: Identity,
        *,
        release: str,
        boot: str,
        is_revoked: IsRevoked,
        invitations: Invitations | None = None,
        settings: LinkSettings | None = None,
        listen: tuple[str, int] | None = None,
        dial_overrides: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
        renumbered: Callable[[int, PeerIdentity], None] = lambda former, peer: None,
    ) -> None:
        """`boot` is new at each start; `dial_overrides` maps a peer's name or number to host:port;
        `renumbered` is told of a peer that answers under another number."""
        self.me = identity.me
        self.settings = settings or LinkSettings()
        self._identity = identity
        self._release = release
        self._boot = boot
        self._is_revoked = is_revoked
        self._invitations = invitations
        self._listen = listen
        self._rng = rng or random.Random()  # noqa: S311
        self._refusals = Refusals()
        self._slots: dict[int, Slot] = {}
        self._handlers: dict[str, Handler] = {
            method: partial(self._answer_with_stream, purpose) for purpose, method in REQUESTS.items()
        }
        self._renumbering = Renumbering(self._slots, invitations, self._refuse_twin)
        self._handlers[METHOD] = self._renumbering.passed_on
        self._watching: asyncio.Task[None] | None = None
        self._stopped = False
        self._tell_up: list[Callable[[], None]] = []
        self._live: set[Framed] = set()
        self._dialler = Dialler(
            identity,
            self.settings,
            release=release,
            boot=boot,
            overrides=dial_overrides or {},
            live=self._live,
            renumbered=renumbered,
        )
        self._openings = Openings(identity.me, self.settings, self._dialler)
        self._listener = Listener(
            identity,
            self.settings,
            self._refusals,
            is_revoked=is_revoked,
            admit=self._admit,
            answer_stranger=self._answer_stranger,
            live=self._live,
        )

    # What the node does with it

    async def start(self) -> None:
        if self._listen is not None:
            self._listener.start(*self._listen)
        self._watching = asyncio.create_task(self._watch_revocations(), name="link revocations")

    async def stop(self) -> None:
        """Close every connection in order; a second call does nothing."""
        self._stopped = True
        await self._listener.stop()
        tasks = [slot.dialling for slot in self._slots.values()] + [self._watching]
        for task in tasks:
            if task is not None:
                task.cancel()
        gone = LinkError("node-stopping", f'node "{self.me.name}" is stopping')
        for slot in self._slots.values():
            slot.close(gone)
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)
        await self._openings.stop()
        await self._close_connections(gone)

    @property
    def port(self) -> int:
        """The port that is listened on; of use when 0 was asked for."""
        return self._listener.port

    def handle(self, name: str, handler: Handler) -> None:
        """Answer the request `name` from any peer with `handler`."""
        self._handlers[name] = handler

    def serve_streams(self, serve: ServeStream, purpose: Purpose = Purpose.STREAM) -> None:
        """Streams that peers open for this purpose go to `serve`, one task each."""
        self._openings.serve_with(serve, purpose)

    def set_peers(self, peers: Sequence[Peer]) -> None:
        """These are the peers now: dial those that are new, leave those that are gone."""
        wanted = {peer.number: peer for peer in peers if peer.number != self.me.number}
        for number, slot in self._slots.items():
            if number not in wanted and slot.is_wanted:
                slot.is_wanted = False
                self._stop_dialling(slot)
                slot.close(LinkError("peer-removed", f'node "{slot.peer.name}" is no longer a peer'))
        for peer in wanted.values():
            slot = self._slot(peer)
            changed = slot.peer != peer or not slot.is_wanted
            slot.peer, slot.is_wanted = peer, True
            if changed or slot.dialling is None:
                self._stop_dialling(slot)
                if self._dialler.addresses(peer):
                    slot.dialling = asyncio.create_task(self._keep_dialled(slot), name=f"dial {peer.name}")
        self.close_revoked()

    async def request(
        self, number: int, method: str, payload: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """Ask a peer over its control connection. Without a link: LinkError `link-down`, at once."""
        return await self._control(number).request(method, payload, timeout_seconds)

    async def open_stream(self, number: int, purpose: Purpose = Purpose.STREAM) -> Stream:
        """A new stream to the peer's PostgreSQL or models, over the direction that is known to work."""
        control = self._control(number)
        return await self._openings.open(self._slots[number], control, purpose)

    def when_up(self, tell: Callable[[], None]) -> None:
        """Call this whenever a link has come up."""
        self._tell_up.append(tell)

    async def until_up(self, number: int) -> None:
        """Wait, without a deadline of its own, until there is a link to the peer."""
        await self._slot(Peer(number, f"node {number}")).up.wait()

    def report(self) -> list[LinkReport]:
        return [slot.report() for _, slot in sorted(self._slots.items())]

    def link(self, number: int) -> LinkReport | None:
        slot = self._slots.get(number)
        return slot.report() if slot is not None else None

    def refusals(self) -> dict[str, int]:
        return self._refusals.counts()

    def refuse(self, reason: str, who: str, why: str) -> None:
        """Count and log a refusal that another part (the gateway) decided on."""
        self._refusals.refuse(reason, who, why)

    def close_revoked(self) -> None:
        """Close what belongs to a peer revoked since; also runs every few seconds."""
        for slot in self._slots.values():
            peer = slot.identity
            if peer is not None and slot.is_live and self._is_revoked(peer.number, peer.serial):
                self._refusals.refuse("revoked", f'node "{peer.name}"', "it was revoked while connected")
                slot.close(PolicyDenied("revoked", f'node "{peer.name}" has been revoked'))

    async def _close_connections(self, reason: LinkError) -> None:
        """Goodbyes first; whoever does not answer them is cut off."""
        for framed in list(self._live):
            framed.close(reason)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.close_seconds_max
        while self._live and loop.time() < deadline:
            await asyncio.sleep(CLOSE_POLL_SECONDS)
        for framed in list(self._live):
            framed.abort(reason)
        await asyncio.sleep(0)

    # Dialling

    async def _keep_dialled(self, slot: Slot) -> None:
        """For as long as the peer is wanted: whenever there is no link, dial; wait longer each time."""
        failures = 0
        while True:
            await slot.down.wait()
            if failures:
                last = self.settings.backoff_last_seconds
                pause = min(last, self.settings.backoff_first_seconds * 2 ** min(failures - 1, 20))
                await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))
                if not slot.down.is_set():
                    continue
            try:
                framed = await self._dialler.connect(slot, Purpose.CONTROL)
            except AtollError as error:
                slot.note_failure(error)
                if isinstance(error, PolicyDenied) and error.code != "revoked":
                    self._refusals.refuse(error.code, f'node "{slot.peer.name}"', error.message)
                failures += 1
            else:
                # A link that ends soon counts as a failure, so that flapping is not answered with haste.
                began = asyncio.get_running_loop().time()
                self._settle(slot, framed, dialled_by=self.me.number)
                await slot.down.wait()
                lasted = asyncio.get_running_loop().time() - began
                failures = 1 if lasted > self.settings.ping_every_seconds else failures + 1

    def _stop_dialling(self, slot: Slot) -> None:
        if slot.dialling is not None:
            slot.dialling.cancel()
            slot.dialling = None

    # Being dialled

    async def _admit(self, framed: Framed, peer: PeerIdentity, hello: Hello) -> None:
        slot = self._slot(Peer(peer.number, peer.name))
        if hello.purpose is Purpose.CONTROL:
            current = slot.control
            if current is not None and current.boot and current.boot != hello.boot:
                await self._refuse_twin(slot, peer.name)
            if current is not None and not self._yields(current.dialled_by, peer.number):
                # The peer would not dial if it had a link; is ours perhaps dead without knowing it?
                within = min(PROBE_SECONDS_MAX, self.settings.silent_after_seconds / 2)
                if await current.answers_ping(within):
                    framed.close(DUPLICATE)
                    return
            self._welcome(framed)
            slot.identity, slot.peer_boot = peer, hello.boot
            self._settle(slot, framed, dialled_by=peer.number)
        elif hello.purpose in REQUESTS:
            slot.reserve(self.settings.streams_max)
            try:
                self._welcome(framed)
                self._openings.take(slot, framed, peer, hello.purpose)
            finally:
                slot.release()
        else:
            answer = self._openings.expect(hello.stream, peer.number)
            self._welcome(framed)
            answer.set_result(framed)

    def _welcome(self, framed: Framed) -> None:
        welcome = {"welcome": VERSION_MAX, "release": self._release, "boot": self._boot}
        framed.send_message(welcome | {"number": self.me.number})

    async def _answer_with_stream(
        self, purpose: Purpose, peer: PeerIdentity, payload: dict[str, Any]
    ) -> dict[str, Any]:
        slot = self._slot(Peer(peer.number, peer.name))
        return await self._openings.answer(slot, peer, payload, purpose)

    async def _answer_stranger(self, purpose: Purpose, message: dict[str, Any]) -> dict[str, Any]:
        if purpose is Purpose.RENUMBER:
            return await self._renumbering.answer(message.get("wish"))
        return await answer_stranger(purpose, message, self._identity.authority_pem, self._invitations)

    async def _refuse_twin(self, slot: Slot, name: str) -> None:
        """Somebody else comes with the number of a peer: is the peer that we have a link to still alive?"""
        current = slot.control
        within = min(PROBE_SECONDS_MAX, self.settings.silent_after_seconds / 2)
        if current is not None and await current.answers_ping(within):
            raise PolicyDenied(
                "node-twice",
                f'node "{name}" (number {slot.peer.number}) is alive twice',
                detail="One of the two homes is a copy of the other.",
                hint="Stop one of them for good; the other goes on.",
            )

    # Control links

    def _settle(self, slot: Slot, framed: Framed, *, dialled_by: int) -> None:
        """Make this the control link, or retire it when the one that exists has precedence."""
        if self._stopped or slot.identity is None:
            framed.close()
            return
        current = slot.control
        control = ControlLink(
            framed,
            slot.identity,
            dialled_by=dialled_by,
            boot=slot.peer_boot,
            handlers=self._handlers,
            traffic=slot.traffic,
            gone=slot.lose,
        )
        if not control.is_open:
            return
        by_us = dialled_by == self.me.number
        if by_us and current is not None and not self._yields(current.dialled_by, dialled_by):
            # The peer may already be asking something on it, so it ends in order.
            slot.keep_until_closed(control)
            control.retire()
            return
        slot.gain(control)
        if current is not None:
            current.retire()
        for tell in self._tell_up:
            tell()

    @staticmethod
    def _yields(current: int, new: int) -> bool:
        """Does the link dialled by `current` make way for one dialled by `new`? The same on both sides."""
        return new <= current

    def _control(self, number: int) -> ControlLink:
        slot = self._slots.get(number)
        if slot is None or slot.control is None:
            name = slot.peer.name if slot else str(number)
            reason = slot.last_error if slot else None
            raise LinkError("link-down", f'there is no link to node "{name}" now', detail=reason)
        return slot.control

    def _slot(self, peer: Peer) -> Slot:
        if peer.number not in self._slots:
            self._slots[peer.number] = Slot(peer, self.settings)
        return self._slots[peer.number]

    async def _watch_revocations(self) -> None:
        while True:
            await asyncio.sleep(self.settings.ping_every_seconds)
            self.close_revoked()
