"""What an upstream may do to us: be away, be busy, be silent, break off. The other side is a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from atoll.domain.errors import AtollError, ConfigError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes.contract import Ask, Pouring
from atoll.runtimes.events import split
from atoll.runtimes.http.client import Client
from atoll.runtimes.http.wire import Wire
from atoll.runtimes.upstream import Address, UpstreamRuntime
from support.fix_runtimes import CHAT, eventually_true, saying

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}\n\n'
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Server:
    """Answers as it is told, and remembers what it was asked."""

    base: str = ""
    answer: Answer | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    at_work: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(await request.json())
        self.keys.append(request.headers.get("Authorization"))
        assert self.answer is not None
        self.at_work += 1
        try:
            return await self.answer(request)
        finally:
            self.at_work -= 1


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    app = web.Application()
    app.router.add_post("/{tail:.*}", found.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    found.base = f"http://{host}:{port}"
    yield found
    await runner.cleanup()


@pytest.fixture
async def runtime(server: Server) -> AsyncIterator[UpstreamRuntime]:
    found = UpstreamRuntime(Address(server.base, "their-model", "a-key", silence_seconds=1.0))
    await found.start()
    yield found
    await found.stop()


def refuses(status: int, **headers: str) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "Not today"}}, status=status, headers=headers)

    return answer


def streams(*blocks: bytes, then: Callable[[web.Request], Awaitable[None]] | None = None) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for block in blocks:
            await response.write(block)
        if then is not None:
            await then(request)
        return response

    return answer


async def forever(request: web.Request) -> None:
    await asyncio.sleep(600)


async def break_off(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


async def events_of(runtime: UpstreamRuntime, **body: Any) -> list[bytes]:
    async with runtime.generate(Ask(CHAT, saying("hello", **body))) as stream:
        return [event async for event in stream]


async def error_of(asking: Awaitable[object]) -> AtollError:
    with pytest.raises(AtollError) as caught:
        await asking
    return caught.value


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "request-refused"),
        (422, "request-refused"),
        (401, "runtime-broken"),
        (404, "runtime-broken"),
        (429, "runtime-crowded"),
        (500, "runtime-broken"),
        (502, "runtime-broken"),
        (503, "runtime-crowded"),
    ],
)
async def test_each_status_says_who_can_act(
    server: Server, runtime: UpstreamRuntime, status: int, code: str
) -> None:
    server.answer = refuses(status)
    error = await error_of(events_of(runtime))
    assert error.code == code
    assert error.detail == "Not today."


async def test_the_time_to_come_back_is_kept(server: Server, runtime: UpstreamRuntime) -> None:
    for header, seconds in (("17", 17.0), ("1e9", 3600.0), ("soon", None)):
        server.answer = refuses(429, **{"Retry-After": header})
        error = await error_of(events_of(runtime))
        assert isinstance(error, LinkError)
        assert error.retry_after_seconds == seconds


async def test_bytes_come_through_untouched(server: Server, runtime: UpstreamRuntime) -> None:
    odd = b'event: x\r\ndata: {"a":  1}\r\n\r\n'
    server.answer = streams(CHUNK[:20], CHUNK[20:] + odd[:5], odd[5:] + b": ping\n\n", b"data: [DONE]\n\n")
    assert await events_of(runtime) == [CHUNK, odd, b": ping\n\n", b"data: [DONE]\n\n"]
    asked = server.asked[0]
    assert (asked["model"], asked["stream"], asked["messages"]) == (
        "their-model",
        True,
        [*saying("hello")["messages"]],
    )
    assert server.keys == ["Bearer a-key"]


async def test_an_adapter_is_asked_by_its_name(server: Server, runtime: UpstreamRuntime) -> None:
    server.answer = streams(CHUNK)
    async with runtime.generate(Ask(CHAT, saying("hello"), "their-adapter")) as stream:
        assert [event async for event in stream] == [CHUNK]
    assert server.asked[0]["model"] == "their-adapter"


async def test_silence_before_the_first_word_is_slow(server: Server, runtime: UpstreamRuntime) -> None:
    server.answer = streams(then=forever)
    assert (await error_of(events_of(runtime))).code == "runtime-slow"


@pytest.mark.parametrize("then", [forever, break_off])
async def test_silence_or_a_cut_after_the_first_word_is_broken(
    server: Server, runtime: UpstreamRuntime, then: Callable[[web.Request], Awaitable[None]]
) -> None:
    server.answer = streams(CHUNK, then=then)
    async with runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        assert await anext(stream) == CHUNK
        with pytest.raises(LinkError) as caught:
            await anext(stream)
    assert caught.value.code == "runtime-broken"


async def poured(stream: AsyncIterator[bytes], wanted: int = 10**9) -> list[bytes]:
    """The events that are handed on, until there are so many."""
    found: list[bytes] = []

    def hand_on(block: bytes) -> bool:
        found.extend(split(block))
        return len(found) < wanted

    assert isinstance(stream, Pouring)
    await stream.pour(hand_on)
    return found


async def test_what_is_poured_is_what_is_read(server: Server, runtime: UpstreamRuntime) -> None:
    last = b"data: [DONE]\n\n"

    async def say_on(request: web.Request) -> None:
        await asyncio.sleep(0.05)

    server.answer = streams(CHUNK, CHUNK + CHUNK[:9], CHUNK[9:], b": a\r\n\r\n" + last[:-2], then=say_on)
    async with runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        assert await anext(stream) == CHUNK
        assert await poured(stream) == [CHUNK, CHUNK, b": a\r\n\r\n"]
        assert [event async for event in stream] == [last]  # that had no end
        assert await poured(stream) == []


async def test_pouring_ends_where_no_more_is_wanted(server: Server, runtime: UpstreamRuntime) -> None:
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(64):
            await response.write(CHUNK * (2**20 // len(CHUNK)))
            sent += 1
        return response

    server.answer = pour
    async with runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        first = await poured(stream, wanted=1)
        await asyncio.sleep(0.3)
        assert sent < 32
        rest = [event async for event in stream]
    assert len(first) + len(rest) == 64 * (2**20 // len(CHUNK))
    assert {*first, *rest} == {CHUNK}


@pytest.mark.parametrize(
    ("then", "code"),
    [
        (forever, "runtime-broken"),
        (break_off, "runtime-broken"),
        (b'data: {"error": {"message": "Overloaded", "code": 503}}\n\n', "runtime-crowded"),
        (b"x" * (5 * 1024 * 1024), "runtime-broken"),
    ],
)
async def test_what_goes_wrong_while_pouring_the_next_step_says(
    server: Server, runtime: UpstreamRuntime, then: Any, code: str
) -> None:
    async def go_on(request: web.Request) -> None:
        await asyncio.sleep(0.05)

    more, last = ((b"",), then) if callable(then) else ((then,), go_on)
    server.answer = streams(CHUNK, CHUNK, *more, then=last)
    async with runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        assert await anext(stream) == CHUNK
        found = await poured(stream)
        with pytest.raises(LinkError) as caught:
            found += [event async for event in stream]
    assert caught.value.code == code
    assert found in ([CHUNK], [])  # what comes in one piece with an error is left to the next step, too


async def test_an_error_that_comes_while_pouring_is_said_by_the_next_step(
    server: Server, runtime: UpstreamRuntime
) -> None:
    heard = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(CHUNK)
        await response.write(CHUNK)
        await heard.wait()
        await response.write(b'data: {"error": {"message": "Overloaded", "code": 503}}\n\n')
        return response

    def hand_on(block: bytes) -> bool:
        heard.set()
        return True

    server.answer = answer
    async with asyncio.timeout(60), runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        assert await anext(stream) == CHUNK
        assert isinstance(stream, Pouring)
        await stream.pour(hand_on)
        with pytest.raises(LinkError) as caught:
            await anext(stream)
    assert caught.value.code == "runtime-crowded"


async def test_noise_is_left_out_also_while_pouring(server: Server) -> None:
    heard, noise = asyncio.Event(), b": still there\n\n"

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(noise + CHUNK)
        await heard.wait()
        await response.write(noise + CHUNK + noise)
        return response

    server.answer = answer
    async with asyncio.timeout(60):
        wire = Wire(Client(server.base, silence_seconds=30.0))
        async with wire.stream("/chat/completions", b"{}", lambda event: event == noise) as stream:
            assert await anext(stream) == CHUNK
            heard.set()
            assert await poured(stream) == [CHUNK]
            assert [event async for event in stream] == []
        wire.client.close()


async def test_an_error_in_the_middle_is_an_error(server: Server, runtime: UpstreamRuntime) -> None:
    server.answer = streams(CHUNK, b'data: {"error": {"message": "Overloaded", "code": 503}}\n\n')
    assert (await error_of(events_of(runtime))).code == "runtime-crowded"


async def test_an_event_without_an_end_is_broken_off(server: Server, runtime: UpstreamRuntime) -> None:
    server.answer = streams(CHUNK, *[b"x" * 1024 * 1024] * 6)
    assert (await error_of(events_of(runtime))).code == "runtime-broken"


async def test_leaving_closes_the_connection(server: Server, runtime: UpstreamRuntime) -> None:
    server.answer = streams(CHUNK, then=forever)
    async with runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        await anext(stream)
        assert server.at_work == 1

    async def is_left() -> bool:
        return server.at_work == 0

    await eventually_true(is_left, "the other side noticed")


async def test_who_is_away_is_broken(server: Server) -> None:
    for base in ("http://127.0.0.1:9", "http://no-such-host.invalid"):
        runtime = UpstreamRuntime(Address(base, "m"))
        await runtime.start()
        assert (await error_of(events_of(runtime))).code == "runtime-broken"
        await runtime.stop()


async def test_vectors_that_make_no_sense_are_refused(server: Server, runtime: UpstreamRuntime) -> None:
    for data in ([], [{"index": 0, "embedding": ["a"]}], [{"index": 0, "embedding": [float("nan")]}], None):

        async def answer(request: web.Request, data: Any = data) -> web.StreamResponse:
            return web.json_response({"data": data})

        server.answer = answer
        assert (await error_of(runtime.embed(["a"]))).code == "runtime-broken"


def test_an_address_is_one_of_http_and_its_key_is_not_shown() -> None:
    with pytest.raises(ConfigError):
        UpstreamRuntime(Address("file:///etc/passwd", "m"))
    assert "secret" not in repr(Address("http://h", "m", "secret", skills=frozenset({Skill.EMBED})))
