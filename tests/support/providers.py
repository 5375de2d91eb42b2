"""A server that speaks the OpenAI API on loopback and does as it is told: late, broken, busy, cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

TOO_LONG = {"message": "It is 9 tokens, and I read 8.", "code": "context_length_exceeded"}


@dataclass
class Provider:
    """`mood` is fine, late, mute, cut, empty, plain (takes no logprobs), short (of context) or a status."""

    name: str
    mood: str | int = "fine"
    late_seconds: float = 0.0
    retry_after: str | None = None
    words: int = 3
    asks: list[dict[str, Any]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)  # whole requests: their heads, too
    open: int = 0  # requests that are being answered
    base: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.heard.append(f"{request.raw_path} {request.raw_headers} {await request.text()}")
        self.asks.append(await request.json())
        self.open += 1
        try:
            if self.mood == "plain" and self.asks[-1].get("logprobs"):
                return web.json_response({"error": "logprobs is not supported"}, status=400)
            if self.mood == "short":
                return web.json_response({"error": TOO_LONG}, status=400)
            if isinstance(self.mood, int):
                headers = {"Retry-After": self.retry_after} if self.retry_after else {}
                return web.json_response({"error": self.name}, status=self.mood, headers=headers)
            if request.path.endswith("/embeddings"):
                data = [
                    {"index": number, "embedding": [1.0, 0.0]}
                    for number in range(len(self.asks[-1]["input"]))
                ]
                return web.json_response({"data": data, "usage": {"prompt_tokens": 1}})
            return await self._stream(request)
        finally:
            self.open -= 1

    async def models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": [{"id": "m"}]})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.mood == "mute":
            await asyncio.sleep(3600)
        if self.mood == "late":
            await asyncio.sleep(self.late_seconds)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.mood == "empty":
            return response
        for number in range(self.words):
            await response.write(_event({"delta": {"content": f"{self.name} "}, "finish_reason": None}))
            if self.mood == "cut" and number == 1:
                assert request.transport is not None
                request.transport.abort()
        await response.write(_event({"delta": {}, "finish_reason": "stop"}))
        await response.write(b"data: [DONE]\n\n")
        return response


def _event(choice: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def running(*names: str) -> AsyncIterator[list[Provider]]:
    """Providers on ports of their own."""
    async with contextlib.AsyncExitStack() as stack:
        found = [Provider(name) for name in names]
        for provider in found:
            app = web.Application()
            app.router.add_post("/v1/{tail:.*}", provider.answer)
            app.router.add_get("/v1/models", provider.models)
            runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            provider.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield found
