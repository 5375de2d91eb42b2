"""What `Links` knows of one peer: its control link, its streams, its totals and the last error.

Pure bookkeeping: it opens nothing by itself.
"""

from __future__ import annotations

import asyncio

from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.control import ControlLink
from atoll.link.frame import Framed
from atoll.link.rate import Bucket
from atoll.link.report import LinkReport, LinkState, Peer
from atoll.link.settings import LinkSettings
from atoll.link.stream import Stream
from atoll.link.traffic import Traffic


class Slot:
    def __init__(self, peer: Peer, settings: LinkSettings) -> None:
        self.peer = peer
        self.identity: PeerIdentity | None = None
        self.peer_boot = ""
        self.is_wanted = False
        self.control: ControlLink | None = None
        self.dialling: asyncio.Task[None] | None = None
        self.good_address: str | None = None
        self.last_error: str | None = None
        self.traffic = Traffic()
        self.up = asyncio.Event()
        self.down = asyncio.Event()
        self.down.set()
        self._loop = asyncio.get_running_loop()
        self._bucket = Bucket(settings.rate_bytes_per_second, self._loop.time)
        self._streams: set[Stream] = set()
        self._closing: set[ControlLink] = set()
        self._reserved = 0
        self._links_made = 0
        self._up_since = 0.0

    @property
    def is_live(self) -> bool:
        return self.control is not None or bool(self._streams)

    def in_order(self, addresses: tuple[str, ...]) -> list[str]:
        """The address that worked last comes first."""
        return sorted(addresses, key=lambda address: address != self.good_address)

    def keep_until_closed(self, control: ControlLink) -> None:
        """A link that is still open, but not the one to use."""
        if control.is_open:
            self._closing.add(control)

    def gain(self, control: ControlLink) -> None:
        """From now on this is the link to use."""
        self.keep_until_closed(control)
        self.control = control
        self._links_made += 1
        self._up_since = self._loop.time()
        self.last_error = None
        self.down.clear()
        self.up.set()

    def lose(self, control: ControlLink, error: AtollError | None) -> None:
        self._closing.discard(control)
        if self.control is control:
            self.control = None
            self.up.clear()
            self.down.set()
            if error is not None:
                self.note_failure(error)

    def note_failure(self, error: AtollError) -> None:
        self.last_error = f"{error.message} ({error.detail})" if error.detail else error.message

    def reserve(self, streams_max: int) -> None:
        """Count a stream that is being opened, so that the bound holds while it is."""
        if len(self._streams) + self._reserved >= streams_max:
            raise LinkError(
                "streams-exhausted", f'node "{self.peer.name}" already has {streams_max} streams open'
            )
        self._reserved += 1

    def release(self) -> None:
        self._reserved -= 1

    def make_stream(self, framed: Framed, peer: PeerIdentity) -> Stream:
        stream = Stream(
            framed, peer, traffic=self.traffic, bucket=self._bucket, rtt=self._rtt, gone=self._lose_stream
        )
        self._streams.add(stream)
        return stream

    def close(self, error: AtollError) -> None:
        for stream in list(self._streams):
            stream.close(error)
        for control in list(self._closing):
            control.close(error)

    def report(self) -> LinkReport:
        control, traffic = self.control, self.traffic
        now = self._loop.time()
        return LinkReport(
            number=self.peer.number,
            name=self.peer.name,
            state=self._state(),
            dialled_by=control.dialled_by if control else None,
            rtt_seconds=control.rtt_seconds if control else None,
            heard_seconds_ago=now - control.heard_at if control else None,
            up_seconds=now - self._up_since if control else None,
            streams=len(self._streams),
            streams_opened=traffic.streams_opened,
            reconnects=max(0, self._links_made - 1),
            raw_in_bytes=traffic.raw_in_bytes,
            raw_out_bytes=traffic.raw_out_bytes,
            wire_in_bytes=traffic.wire_in_bytes,
            wire_out_bytes=traffic.wire_out_bytes,
            peer_boot=self.peer_boot,
            last_error=self.last_error,
        )

    def _state(self) -> LinkState:
        if self.control is not None:
            return "up"
        if self.dialling is not None:
            return "dialling"
        return "waiting" if self.is_wanted else "removed"

    def _rtt(self) -> float | None:
        return self.control.rtt_seconds if self.control else None

    def _lose_stream(self, stream: Stream) -> None:
        self._streams.discard(stream)
