"""A model's server that costs next to nothing: OpenAI's chat, with answers made before they are asked for.

It says as many words as `max_tokens`, all together, or, where the question has the words of ONE_BY_ONE, each
a moment after the one before, as a model does.

    python benchmarks/support/upstream.py PORT
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import Any

NAME = "bench"
WORDS_MAX = 512
ONE_BY_ONE, PAUSE_SECONDS = "one by one", 0.004
_LIMIT = re.compile(rb'"max_tokens":\s*(\d+)')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n\r\n"


def word(number: int) -> str:
    return f"word{number} "


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(event), event)


def _event(choices: list[Any], **more: Any) -> bytes:
    told = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": NAME}
    return _chunk(b"data: " + json.dumps({**told, "choices": choices, **more}).encode() + b"\n\n")


def _delta(delta: dict[str, str], reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": reason}])


def _usage(words: int) -> dict[str, int]:
    return {"prompt_tokens": 8, "completion_tokens": words, "total_tokens": 8 + words}


def _whole(words: int) -> bytes:
    message = {"role": "assistant", "content": "".join(map(word, range(words)))}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": NAME}
    body = json.dumps({**told, "choices": [choice], "usage": _usage(words)}).encode()
    return _HEAD % (b"application/json", b"Content-Length: %d" % len(body)) + body


WHOLE = [_whole(words) for words in range(WORDS_MAX + 1)]
WORDS = [_delta({"role": "assistant", "content": word(number)}) for number in range(WORDS_MAX)]
BEGIN = _HEAD % (b"text/event-stream", b"Transfer-Encoding: chunked")
ENDS = [
    _delta({}, "stop") + _event([], usage=_usage(words)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    for words in range(WORDS_MAX + 1)
]
_LIST = json.dumps({"object": "list", "data": [{"id": NAME, "object": "model"}]}).encode()
LIST = _HEAD % (b"application/json", b"Content-Length: %d" % len(_LIST)) + _LIST


class Upstream(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._rest = b""

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, end, body = self._rest.partition(b"\r\n\r\n")
        found = _LENGTH.search(head)
        length = int(found[1]) if found else 0
        if not end or len(body) < length:
            return
        self._rest = body[length:]
        self._answer(head, body[:length])

    def _answer(self, head: bytes, body: bytes) -> None:
        limit = _LIMIT.search(body)
        words = min(int(limit[1]), WORDS_MAX) if limit else 1
        if head.startswith(b"GET"):
            self._transport.write(LIST)
        elif not _STREAM.search(body):
            self._transport.write(WHOLE[words])
        elif ONE_BY_ONE.encode() in body:
            self._transport.write(BEGIN)
            self._say(0, words, self._loop.time())
        else:
            self._transport.write(b"".join([BEGIN, *WORDS[:words], ENDS[words]]))

    def _say(self, number: int, words: int, at: float) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(ENDS[words] if number == words else WORDS[number])
        if number < words:
            self._loop.call_at(at + PAUSE_SECONDS, self._say, number + 1, words, at + PAUSE_SECONDS)


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=256)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
