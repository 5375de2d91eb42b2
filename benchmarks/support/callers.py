"""Callers that cost little: each keeps its connection, and asks again as soon as it has an answer."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field

from support.upstream import ONE_BY_ONE, word

CHAT = "/v1/chat/completions"
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
SECONDS_MAX = 60.0  # that all may take longer than they were to


@dataclass(frozen=True)
class Question:
    """What is asked, and how an answer is known to be whole."""

    words: int = 1
    is_streamed: bool = False
    is_one_by_one: bool = False

    def request(self, port: int, model: str) -> bytes:
        words = ONE_BY_ONE if self.is_one_by_one else "all together"
        asked = {"model": model, "messages": [{"role": "user", "content": f"Say it {words}, please."}]}
        body = json.dumps({**asked, "max_tokens": self.words, "stream": self.is_streamed}).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        # A key, because some ask for one: here it opens nothing.
        return f"{head}Authorization: Bearer none\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Heard:
    """What came of it, in seconds."""

    answers: list[float] = field(default_factory=list)  # until they were whole
    first_words: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.answers) / self.seconds


class _Caller(asyncio.Protocol):
    def __init__(self, question: Question, request: bytes, ends_at: float, heard: Heard) -> None:
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._last = word(question.words - 1).encode()
        self._is_streamed = question.is_streamed
        self._ends_at = ends_at
        self._heard = heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        if not self._parts and not data.startswith(b"HTTP/1.1 200"):
            self._fail(f"an answer begins with {data[:300]!r}")
            return
        self._parts.append(data)
        if self._is_waiting and b'"content":' in data:
            self._is_waiting = False
            self._heard.first_words.append(time.perf_counter() - self._began)
        if self._is_whole(data):
            now = time.perf_counter()
            if self._last not in b"".join(self._parts):
                self._fail(f"an answer is not whole: {b''.join(self._parts)[-300:]!r}")
                return
            self._heard.answers.append(now - self._began)
            if now < self._ends_at:
                self._ask()
            else:
                self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.over.done():
            if self._parts and not self._is_whole(self._parts[-1]):
                self.over.set_exception(RuntimeError(f"a connection broke: {error}"))
            else:
                self.over.set_result(None)

    def _ask(self) -> None:
        self._parts: list[bytes] = []
        self._is_waiting = True
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def _is_whole(self, data: bytes) -> bool:
        if self._is_streamed:
            return data.endswith(b"0\r\n\r\n")
        head, end, body = b"".join(self._parts).partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        return bool(end) and length is not None and len(body) >= int(length[1])

    def _fail(self, why: str) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(why))
        self._transport.abort()


async def ask(port: int, model: str, question: Question, connections: int, seconds: float) -> Heard:
    """All of them, for so long; a caller that has asked is answered before it leaves."""
    loop, heard = asyncio.get_running_loop(), Heard()
    request, began = question.request(port, model), time.perf_counter()
    async with asyncio.timeout(seconds + SECONDS_MAX):
        callers = []
        for _ in range(connections):
            make = lambda: _Caller(question, request, began + seconds, heard)  # noqa: E731
            _, caller = await loop.create_connection(make, "127.0.0.1", port)
            callers.append(caller)
        await asyncio.gather(*(caller.over for caller in callers))
    heard.seconds = time.perf_counter() - began
    return heard
