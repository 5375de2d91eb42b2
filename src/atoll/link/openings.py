"""Opens streams to peers and takes those that peers open, whichever side is able to dial.

Where only the peer can dial, it is asked over the control connection and names the stream when it connects.
A stream is for one purpose, each with a service of its own: PostgreSQL, the models of a node, or
layers that it holds of another node's model.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from atoll.domain.errors import LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.control import ControlLink
from atoll.link.dialler import Dialler
from atoll.link.frame import Framed
from atoll.link.greeting import Purpose
from atoll.link.settings import LinkSettings
from atoll.link.slot import Slot
from atoll.link.stream import Stream

log = logging.getLogger("atoll.link")

ServeStream = Callable[[PeerIdentity, Stream], Awaitable[None]]
# What is asked of a peer that has to dial. One that does not know a purpose says so.
REQUESTS = {
    Purpose.STREAM: "stream.answer",
    Purpose.MODEL: "model.answer",
    Purpose.LAYERS: "layers.answer",
}


class Openings:
    def __init__(self, me: PeerIdentity, settings: LinkSettings, dialler: Dialler) -> None:
        self._me = me
        self._settings = settings
        self._dialler = dialler
        self._awaited: dict[str, tuple[int, asyncio.Future[Framed]]] = {}
        self._serve: dict[Purpose, ServeStream] = {}
        self._serving: set[asyncio.Future[None]] = set()

    @property
    def awaited(self) -> int:
        """Streams that a peer was asked to dial and has not dialled yet."""
        return len(self._awaited)

    def serve_with(self, serve: ServeStream, purpose: Purpose) -> None:
        self._serve[purpose] = serve

    async def stop(self) -> None:
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def open(self, slot: Slot, control: ControlLink, purpose: Purpose) -> Stream:
        """Over the direction that is known to work, else the other."""
        slot.reserve(self._settings.streams_max)
        try:
            dialled_by_us = control.dialled_by == self._me.number
            try:
                framed = await (
                    self._dial(slot, purpose) if dialled_by_us else self._ask(slot, control, purpose)
                )
            except LinkError as first:
                try:
                    framed = await (
                        self._ask(slot, control, purpose) if dialled_by_us else self._dial(slot, purpose)
                    )
                except LinkError:
                    raise first from None
            return slot.make_stream(framed, control.peer)
        finally:
            slot.release()

    async def _dial(self, slot: Slot, purpose: Purpose) -> Framed:
        return await self._dialler.connect(slot, purpose)

    async def _ask(self, slot: Slot, control: ControlLink, purpose: Purpose) -> Framed:
        stream = secrets.token_hex(16)
        answer: asyncio.Future[Framed] = asyncio.get_running_loop().create_future()
        self._awaited[stream] = (slot.peer.number, answer)
        deadline = 2 * self._settings.dial_seconds_max
        try:
            async with asyncio.timeout(deadline):
                await control.request(REQUESTS[purpose], {"stream": stream}, deadline)
                return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                # It came at the same moment, and nobody would ever end it.
                answer.result().close(LinkError("asker-left", "nobody waits for this stream any more"))
            raise
        except TimeoutError as error:
            name = slot.peer.name
            raise LinkError("dial-timeout", f'node "{name}" did not dial back in time') from error
        finally:
            del self._awaited[stream]
            answer.cancel()

    # What peers open

    def expect(self, stream: str, number: int) -> asyncio.Future[Framed]:
        """Who waits for the stream that this peer has dialled back."""
        awaited_of, answer = self._awaited.get(stream, (0, None))
        if answer is None or awaited_of != number or answer.done():
            raise LinkError("stream-unknown", "nobody waits for this stream any more")
        return answer

    async def answer(
        self, slot: Slot, peer: PeerIdentity, payload: dict[str, Any], purpose: Purpose
    ) -> dict[str, Any]:
        """The peer wants a stream and cannot dial us: dial it."""
        slot.reserve(self._settings.streams_max)
        try:
            framed = await self._dialler.connect(slot, Purpose.ANSWER, str(payload.get("stream", "")))
            self.take(slot, framed, peer, purpose)
        finally:
            slot.release()
        return {}

    def take(self, slot: Slot, framed: Framed, peer: PeerIdentity, purpose: Purpose) -> None:
        serve = self._serve.get(purpose)
        if serve is None:
            error = LinkError("no-service", f'node "{self._me.name}" takes no streams yet')
            framed.close(error)
            raise error
        stream = slot.make_stream(framed, peer)
        task = asyncio.ensure_future(serve(peer, stream))
        self._serving.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a stream could not be served: %s", error, exc_info=error)
