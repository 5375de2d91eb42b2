"""The control connection between two nodes: requests and answers in both directions, and keep-alive.

A method is a name with a handler; its errors travel with code, message, detail and hint. What methods exist
is decided by whoever registers them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.frame import Framed
from atoll.link.settings import LinkSettings
from atoll.link.traffic import Traffic
from atoll.link.wire import Kind, decode_message
from atoll.link.wire_errors import from_wire, to_wire

log = logging.getLogger("atoll.link")

Handler = Callable[[PeerIdentity, dict[str, Any]], Awaitable[dict[str, Any]]]


class ControlLink:
    """One live control connection. It receives its frames; `gone` is called once when it ends."""

    def __init__(
        self,
        framed: Framed,
        peer: PeerIdentity,
        *,
        dialled_by: int,
        boot: str,
        handlers: Mapping[str, Handler],
        traffic: Traffic,
        gone: Callable[[ControlLink, AtollError | None], None],
    ) -> None:
        self.peer = peer
        self.dialled_by = dialled_by
        self.boot = boot
        self._framed = framed
        self._settings: LinkSettings = framed.settings
        self._handlers = handlers
        self._traffic = traffic
        self._gone = gone
        self._next_id = 0
        self._unanswered = 0
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(self._settings.requests_max)
        self._is_open = True
        self._is_retired = self._is_finished = self._peer_is_finished = False
        framed.measures_rtt = True
        framed.adopt(self, traffic, self._settings.message_bytes_max)
        framed.ping()

    @property
    def rtt_seconds(self) -> float | None:
        return self._framed.rtt_seconds

    @property
    def heard_at(self) -> float:
        return self._framed.heard_at

    @property
    def is_open(self) -> bool:
        return self._is_open

    async def request(
        self, method: str, payload: dict[str, Any], timeout_seconds: float | None = None
    ) -> dict[str, Any]:
        """Ask the peer and wait for its answer; its error is raised here."""
        deadline = timeout_seconds if timeout_seconds is not None else self._settings.request_seconds_max
        self._unanswered += 1
        try:
            async with asyncio.timeout(deadline), self._room:
                await self._framed.drained()
                if not self._is_open or self._framed.is_closing:
                    raise _lost(self.peer.name, None)
                return await self._ask(method, payload)
        except TimeoutError as error:
            raise LinkError(
                "request-timeout",
                f'node "{self.peer.name}" did not answer "{method}" within {deadline:g} seconds',
            ) from error
        finally:
            self._unanswered -= 1
            self._finish()

    async def _ask(self, method: str, payload: dict[str, Any]) -> dict[str, Any]:
        self._next_id += 1
        number = self._next_id
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self._framed.send_message({"id": number, "do": method, "with": payload})
            return await answer
        finally:
            del self._asked[number]

    async def answers_ping(self, within_seconds: float) -> bool:
        """Is somebody still there? Anything that arrives counts."""
        asked_at = asyncio.get_running_loop().time()
        self._framed.ping()
        try:
            async with asyncio.timeout(within_seconds):
                while self._is_open and self._framed.heard_at <= asked_at:
                    await asyncio.sleep(within_seconds / 20)
        except TimeoutError:
            return False
        return self._is_open

    def close(self, error: AtollError | None = None) -> None:
        self._framed.close(error)

    def retire(self) -> None:
        """Another link takes over: close as soon as neither side waits for an answer on this one."""
        self._is_retired = True
        asyncio.get_running_loop().call_later(self._settings.request_seconds_max, self.close)
        self._finish()

    def _finish(self) -> None:
        if self._is_retired and not self._unanswered and not self._is_finished:
            self._is_finished = True
            self._framed.send(Kind.EOF)
        if self._is_finished and self._peer_is_finished and not self._answering:
            self._framed.close()

    # Receiver

    def data_received(self, chunk: memoryview) -> None:
        raise LinkError("protocol", "the peer sent data on the control connection")

    def frame_received(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.EOF:
            self._peer_is_finished = True
            self._finish()
            return
        if kind is not Kind.MESSAGE:
            raise LinkError("protocol", f"the peer sent a {kind.name} frame on the control connection")
        self._traffic.raw_in_bytes += len(payload)
        message = decode_message(payload)
        number = message.get("id")
        if not isinstance(number, int):
            raise LinkError("protocol", "the peer sent a message without an id")
        if "do" in message:
            self._take_request(number, message)
        elif number in self._asked:
            self._take_answer(self._asked[number], message)

    def writable(self, ready: bool) -> None:
        """Requests and answers wait for `drained` by themselves."""

    def closed(self, error: AtollError | None) -> None:
        self._is_open = False
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(_lost(self.peer.name, error))
        for task in self._answering:
            task.cancel()
        self._gone(self, error)

    def _take_answer(self, answer: asyncio.Future[dict[str, Any]], message: dict[str, Any]) -> None:
        if answer.done():
            return
        if isinstance(message.get("ok"), dict):
            answer.set_result(message["ok"])
        else:
            answer.set_exception(from_wire(message.get("error")))

    def _take_request(self, number: int, message: dict[str, Any]) -> None:
        if len(self._answering) >= 2 * self._settings.requests_max:
            raise LinkError("protocol", "the peer asked for more at once than was agreed")
        task = asyncio.create_task(self._answer(number, message), name=f"answer {message['do']}")
        self._answering.add(task)
        task.add_done_callback(self._forget_answering)

    def _forget_answering(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._finish()

    async def _answer(self, number: int, message: dict[str, Any]) -> None:
        method, payload = message["do"], message.get("with")
        try:
            handler = self._handlers.get(method) if isinstance(method, str) else None
            if handler is None or not isinstance(payload, dict):
                raise LinkError("method-unknown", f'this node does not know the request "{method}"')
            answer = {"id": number, "ok": await handler(self.peer, payload)}
            await self._framed.drained()
            self._framed.send_message(answer)
        except AtollError as error:
            self._framed.send_message({"id": number, "error": to_wire(error)})
        except Exception:
            log.exception('request "%s" of node "%s" failed', method, self.peer.name)
            failure = LinkError("request-failed", f'the node failed while it answered "{method}"')
            self._framed.send_message({"id": number, "error": to_wire(failure)})


def _lost(name: str, error: AtollError | None) -> LinkError:
    reason = f"{error.message}." if error else None
    return LinkError("link-lost", f'the link to node "{name}" was lost before the answer came', detail=reason)
