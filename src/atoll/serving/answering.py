"""Answers what peers ask of this node's models, over the link, with this node's own engines.

It does not believe the asker: what may not be here by its scope is refused, and so is what another node has
passed on. An asker that goes away or takes its request back frees the engine.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.identity.certificate import PeerIdentity
from atoll.link.stream import Stream
from atoll.link.wire_errors import to_wire
from atoll.runtimes.peer.messages import (
    Channel,
    Kind,
    encode,
    encode_error,
    encode_head,
    pieces,
    read_head,
)
from atoll.runtimes.room import Room
from atoll.serving import asking
from atoll.serving.offer import Offer, check_scopes
from atoll.serving.service import Serving

STREAMS_MAX = 64  # of one peer
BODY_BYTES_MAX = 64 * 1024**2
BODIES_BYTES_MAX = 256 * 1024**2
PIECE_SECONDS_MAX = 60.0
IDLE_SECONDS = 120.0  # twice as long as the asker keeps a stream
STALL_SECONDS_MAX = 120.0
ANSWER_SECONDS_MAX = 3600.0
SCOPES_MAX = 1024
TEXT_LENGTH_MAX = 200
EVENTS_MIN = 8
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What a peer asks; nothing in it has been believed yet."""

    do: str
    model: str
    adapter: str | None
    path: str
    scopes: frozenset[str]
    seconds: float
    hops: int
    wanted: tuple[str, ...]
    arrays: Any

    @property
    def name(self) -> str:
        return f"{self.model}:{self.adapter}" if self.adapter else self.model


class Answering:
    def __init__(
        self, serving: Serving, number: int, region: str, offer_of: Callable[[str], Offer | None]
    ) -> None:
        """`offer_of` says what is offered of a model now."""
        self._serving = serving
        self._number = number
        self._region = region
        self._offer_of = offer_of
        self._streams: Counter[int] = Counter()
        self._room = Room(BODIES_BYTES_MAX)
        self.speeds: dict[str, float] = {}  # tokens per second, by model

    async def serve(self, peer: PeerIdentity, stream: Stream) -> None:
        """One stream: request after request, until the peer ends it or has nothing to ask for a while."""
        channel = Channel(stream)
        self._streams[peer.number] += 1
        try:
            if self._streams[peer.number] > STREAMS_MAX:
                raise LinkError("runtime-crowded", f"a peer asks on {STREAMS_MAX} streams at most")
            await self._serve(channel)
        except (AtollError, TimeoutError) as error:
            log.debug('a stream of node "%s" ended: %s', peer.name, error)
            channel.close(error if isinstance(error, AtollError) else None)
        finally:
            channel.close()
            self._streams[peer.number] -= 1
            if not self._streams[peer.number]:
                del self._streams[peer.number]

    async def _serve(self, channel: Channel) -> None:
        coming: tuple[Kind, bytes] | None = None
        while True:
            if coming is None:
                async with asyncio.timeout(IDLE_SECONDS):
                    coming = await channel.next()
            if coming is None:
                return
            kind, content = coming
            coming = None
            if kind is Kind.BACK:
                continue  # it crossed the end of the answer
            if kind is not Kind.HEAD:
                raise LinkError("protocol", f"the peer sent a {kind.name} without a head")
            with self._room.hold() as take:
                body, trouble = await _body(channel, take)
                coming = await self._while_there(channel, self._answer(channel, content, body, trouble))
            if not channel.is_whole:
                raise LinkError("stream-closed", "the stream broke in the middle of a message")

    async def _while_there(
        self, channel: Channel, answer: Coroutine[Any, Any, None]
    ) -> tuple[Kind, bytes] | None:
        """Answer until it is done, or not wanted any more. What came in meanwhile is given back."""
        working = asyncio.ensure_future(answer)
        hearing = asyncio.ensure_future(channel.next())
        try:
            await asyncio.wait({working, hearing}, return_when=asyncio.FIRST_COMPLETED)
            was_early = not working.done()
        finally:
            for task in (working, hearing):
                task.cancel()
            await asyncio.gather(working, hearing, return_exceptions=True)
        if not working.cancelled():
            working.result()
        elif was_early and channel.is_whole:
            await channel.write(encode(Kind.DONE))
        if hearing.cancelled():
            return None
        came = hearing.result()
        if came is None:
            raise LinkError("stream-ended", "the peer ended the stream")
        return came

    async def _answer(
        self, channel: Channel, content: bytes, body: bytearray, trouble: AtollError | None
    ) -> None:
        try:
            if trouble is not None:
                raise trouble
            request = _read(read_head(content))
            self._check(request)
            async with asyncio.timeout(request.seconds):
                await {"generate": self._generate, "embed": self._embed, "infer": self._infer}[request.do](
                    channel, request, body
                )
            await channel.write(encode(Kind.DONE))
        except TimeoutError:
            error = LinkError("deadline-passed", "could not answer before the deadline of the request")
            await self._refuse(channel, error)
        except AtollError as error:
            await self._refuse(channel, error)
        except Exception:
            log.exception("a request of a peer failed")
            await self._refuse(channel, LinkError("runtime-broken", "the node failed while it answered"))

    async def _refuse(self, channel: Channel, error: AtollError) -> None:
        if channel.is_whole:
            await channel.write(encode_error(to_wire(error)))

    def _check(self, request: Request) -> None:
        if request.hops:
            raise PolicyDenied(
                "ask-passed-on",
                "cannot answer a request that another node has passed on",
                hint="Ask the node that has the model.",
            )
        offer = self._offer_of(request.model)
        if offer is None:
            raise DataError("model-unknown", f'this node offers no model "{request.model}"')
        check_scopes(request.scopes, self._number, self._region, offer)

    async def _generate(self, channel: Channel, request: Request, body: bytearray) -> None:
        asked = _json(body, dict)
        count, took, has_stalled = 0, 0.0, False
        async with asking.generate(
            self._serving, request.name, request.path, asked, request.scopes
        ) as events:
            began = time.perf_counter()
            async for event in events:
                count += 1
                took += time.perf_counter() - began if count > 1 else 0.0
                has_stalled = has_stalled or not channel.is_ready
                await _write(channel, encode(Kind.EVENT, event))
                began = time.perf_counter()
        if count >= EVENTS_MIN and took > 0.0 and not has_stalled:
            rate = (count - 1) / took
            self.speeds[request.model] = 0.7 * self.speeds.get(request.model, rate) + 0.3 * rate

    async def _embed(self, channel: Channel, request: Request, body: bytearray) -> None:
        from atoll.runtimes.peer import arrays  # numpy comes with it

        texts = asking.read_texts(_json(body, list))
        found = await asking.embed(self._serving, request.name, texts)
        told, raw = arrays.describe({"vectors": found.vectors})
        await _write(channel, encode_head({"arrays": told, "tokens": found.tokens}), *pieces(raw))

    async def _infer(self, channel: Channel, request: Request, body: bytearray) -> None:
        from atoll.runtimes.peer import arrays

        inputs = arrays.read(request.arrays, body)
        async with self._serving.use(request.model) as runtime:
            told, raw = arrays.describe(await runtime.infer(inputs, request.wanted))
        await _write(channel, encode_head({"arrays": told}), *pieces(raw))


async def _write(channel: Channel, *messages: bytes) -> None:
    if channel.is_ready:
        await channel.write(*messages)
        return
    try:
        async with asyncio.timeout(STALL_SECONDS_MAX):
            await channel.write(*messages)
    except TimeoutError:
        raise LinkError("asker-slow", "the asker took nothing of its answer for too long") from None


async def _body(channel: Channel, take: Callable[[int], None]) -> tuple[bytearray, AtollError | None]:
    """All pieces; where there is no room for them they are read all the same, and the error told after."""
    body, trouble = bytearray(), None
    while True:
        async with asyncio.timeout(PIECE_SECONDS_MAX):
            found = await channel.next()
        if found is None:
            raise LinkError("stream-ended", "the peer ended the stream in the middle of a request")
        kind, content = found
        if kind is Kind.DONE:
            return body, trouble
        if kind is not Kind.PIECE:
            raise LinkError("protocol", f"the peer sent a {kind.name} in the middle of a request")
        try:
            if len(body) + len(content) > BODY_BYTES_MAX:
                raise DataError("request-too-large", "the request is too long")
            if trouble is None:
                take(len(content))
                body += content
        except AtollError as error:
            trouble = error


def _json(body: bytearray, kind: type) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, kind):
        raise DataError("request-malformed", "the body is not what such a request has")
    return found


def _read(head: dict[str, Any]) -> Request:
    do, model, adapter, path = (head.get(key) for key in ("do", "model", "adapter", "path"))
    scopes, wanted, seconds = head.get("scopes"), head.get("wanted", []), head.get("deadline_seconds")
    hops = head.get("hops")
    texts = [do, model, adapter or "", path or ""]
    lists = (scopes, wanted)
    if (
        not all(isinstance(text, str) and len(text) <= TEXT_LENGTH_MAX for text in texts)
        or do not in ("generate", "embed", "infer")
        or not all(isinstance(one, list) and len(one) <= SCOPES_MAX for one in lists)
        or not all(isinstance(text, str) for one in lists for text in one or ())
        or type(hops) is not int
        or not (seconds is None or (isinstance(seconds, int | float) and math.isfinite(seconds)))
    ):
        raise DataError("request-malformed", "the head of the request cannot be read")
    limit = ANSWER_SECONDS_MAX if seconds is None else min(max(0.0, seconds), ANSWER_SECONDS_MAX)
    return Request(
        str(do),
        str(model),
        adapter or None,
        str(path or ""),
        frozenset(scopes or ()),
        limit,
        hops,
        tuple(wanted),
        head.get("arrays"),
    )
