"""Requests that are read at a glance: as h11 reads them, or not at all; and answers on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import h11
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl

from atoll.domain.errors import DataError
from atoll.node import listen
from atoll.node.values import Address
from atoll.observe.metrics import Metrics
from atoll.web import connection
from atoll.web.app import WebServer, make_app
from atoll.web.bodies import load, read_body
from atoll.web.callers import while_there
from atoll.web.fields import fields
from atoll.web.plain import HEAD_BYTES_MAX, PUT, Exchange, read_head, write_head

USUAL = [
    b"GET /v1/models HTTP/1.1\r\n",
    b"POST /v1/chat?a=%20b HTTP/1.1\r\n",
    b"Host: x\r\n",
    b"Content-Length: 3\r\n",
    b"content-type:application/json \t\r\n",
    b"Connection: keep-alive\r\n",
    b"X-Long: a b\tc\r\n",
    b"\r\n",
    b"abc",
]
ODD = [
    b"PUT / HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"GET http://x/ HTTP/1.1\r\n",
    b"GET /\x80 HTTP/1.1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\n",
    b"Upgrade: h2c\r\n",
    b"Expect: 100-continue\r\n",
    b"Content-Length: +3\r\n",
    b"Content-Length: 3, 3\r\n",
    b"Content-Length : 3\r\n",
    b" folded\r\n",
    b"X: \x00\r\n",
    b"X: a\rb\r\n",
    b"X: a\nb\r\n",
    b"X: \xff\r\n",
    b": nothing\r\n",
    b"no colon\r\n",
    b"\n",
    b"",
]
COMMON = b"".join(USUAL[1:])


@given(st.lists(st.sampled_from(USUAL + ODD), max_size=12).map(b"".join) | st.binary(max_size=200))
def test_what_is_read_at_a_glance_is_what_h11_reads(data: bytes) -> None:
    head = read_head(data)
    if head is None:
        return
    general = h11.Connection(h11.SERVER)
    general.receive_data(data)
    event = general.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target, list(event.headers)) == (
        head.method,
        head.target,
        head.fields,
    )
    body, rest = bytearray(), data[head.end :]
    while isinstance(event := general.next_event(), h11.Data):
        body += event.data
    assert (event is h11.NEED_DATA) == (len(rest) < head.length)
    assert bytes(body) == rest[: head.length]
    assert general.trailing_data[0] == rest[head.length :]


@pytest.mark.parametrize("line", ODD)
def test_what_is_odd_is_left_to_h11(line: bytes) -> None:
    assert read_head(COMMON) is not None
    lines = [USUAL[1], *USUAL[2:7], line, *USUAL[7:]]
    if line.endswith((b"HTTP/1.1\r\n", b"HTTP/1.0\r\n")):
        lines = [line, *USUAL[2:]]
    if line:
        assert read_head(b"".join(lines)) is None
    assert read_head(COMMON.replace(b"Host: x\r\n", b"")) is None
    assert read_head(COMMON.replace(b"\r\n\r\n", b"\r\nHost: y\r\n\r\n")) is None


def test_a_head_that_is_too_long_is_left_to_h11() -> None:
    head = USUAL[0] + b"Host: x\r\nX: %b\r\n\r\n"
    room = HEAD_BYTES_MAX - len(head % b"")
    assert read_head(head % (b"a" * room)) is not None
    assert read_head(head % (b"a" * (room + 1))) is None


def test_a_field_of_an_answer_has_one_line() -> None:
    assert write_head(200, [(b"a", b"b")]) == b"HTTP/1.1 200 OK\r\na: b\r\n\r\n"
    for value in (b"b\r\nc: d", b"b\nc", b"b\rc", b"b\0"):
        with pytest.raises(ValueError, match="more than one line"):
            write_head(200, [(b"a", value)])


async def test_a_body_is_taken_whole_once_and_only_when_all_of_it_is_there() -> None:
    exchange = Exchange(None, FlowControl(None), [], 3, lambda: None)  # type: ignore[arg-type]
    exchange.take(b"ab")
    assert exchange.whole() is None
    exchange.take(b"c")
    assert (exchange.whole(), exchange.whole()) == (b"abc", None)


def test_of_a_field_that_stands_twice_the_first_counts() -> None:
    told = [(b"x-api-key", b"one"), (b"accept", b"\xe9"), (b"x-api-key", b"two")]
    request = Request({"type": "http", "headers": told})
    assert fields(request) == {"x-api-key": "one", "accept": "\xe9"}
    assert fields(request) is fields(request)


def test_json_has_so_many_levels_and_no_more() -> None:
    for wide in (b"[0]", b"[[],{},[]]"):
        inside = wide + b"]" * 62
        assert load(b"[" * 62 + inside)
        with pytest.raises(ValueError, match="levels"):
            load(b"[" * 64 + inside + b"]]")
    assert len(load(b"[" + b"[]," * 200 + b"{}]")) == 201


async def echo(request: Request) -> Response:
    return PlainTextResponse(await request.body())


async def read(request: Request) -> Response:
    return PlainTextResponse(await read_body(request, 4 * 2**20, "request-too-large", "a request"))


async def read_little(request: Request) -> Response:
    try:
        return PlainTextResponse(await read_body(request, 8, "request-too-large", "a request"))
    except DataError as error:
        return PlainTextResponse(error.code, 413)


async def refuse(request: Request) -> Response:
    return PlainTextResponse("no", 413)  # without a look at the body


async def stream(request: Request) -> Response:
    async def words() -> AsyncIterator[bytes]:
        for word in (b"one ", b"", b"two"):
            yield word

    return StreamingResponse(words())


async def lie(request: Request) -> Response:
    return PlainTextResponse("short", headers={"Content-Length": "9"})


async def lie_later(request: Request) -> Response:
    async def words() -> AsyncIterator[bytes]:
        yield b"sho"
        yield b"rt"

    return StreamingResponse(words(), headers={"Content-Length": "9"})


async def break_head(request: Request) -> Response:
    response = PlainTextResponse("")
    response.raw_headers.append((b"x", b"a\r\nb: c"))
    return response


class Pouring(Response):
    """Puts pieces until the connection is full, and then sends the rest."""

    put_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        put, pieces = scope[PUT], iter(PIECES)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for one, other in zip(pieces, pieces, strict=True):
            Pouring.put_bytes += len(one) + len(other)
            if not put(one + other):
                break
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


PIECES = [bytes([number]) * 65536 for number in range(256)]


async def pour(request: Request) -> Response:
    return Pouring()


class Waiting(Response):
    has_left: asyncio.Event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_there(scope, receive, asyncio.sleep(3600))
        finally:
            self.has_left.set()


async def wait(request: Request) -> Response:
    await request.body()
    return Waiting()


@pytest_asyncio.fixture
async def address() -> AsyncIterator[Address]:
    ways = (echo, read, read_little, refuse, stream, lie, lie_later, break_head, pour, wait)
    routes = [Route(f"/{way.__name__}", way, methods=["GET", "POST"]) for way in ways]
    listener = listen.bind(Address("127.0.0.1", 0), "--http")
    serving = asyncio.create_task(WebServer(make_app(dict, Metrics().registry, routes), listener).run())
    yield listen.bound(listener)
    serving.cancel()
    await asyncio.wait({serving})


def post(path: str, body: bytes, field: bytes = b"") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n" % (path.encode(), field, len(body))
    return head + body


def chunked(path: str, body: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode()
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


LAST = b"Connection: close\r\n"


async def said(address: Address, *pieces: bytes) -> list[tuple[int, bytes]]:
    """The answers to what is sent, piece by piece, until the node closes."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    client = h11.Connection(h11.CLIENT)
    found: list[tuple[int, bytes]] = []
    async with asyncio.timeout(60):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        data = await reader.read()
    writer.close()
    client.receive_data(data)
    client.receive_data(b"")
    while True:
        client.send(h11.Request(method="POST", target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        body = b""
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.ConnectionClosed) or event is h11.NEED_DATA:
                return found
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, body))
        if client.their_state is not h11.DONE:
            return found
        client.start_next_cycle()


@pytest.mark.parametrize("way", ["/echo", "/read"])
async def test_common_and_odd_requests_share_a_connection(address: Address, way: str) -> None:
    asked = [post(way, b"a"), chunked(way, b"b"), post("/stream", b""), post(way, b"c", LAST)]
    answers = [(200, b"a"), (200, b"b"), (200, b"one two"), (200, b"c")]
    assert await said(address, *asked) == answers
    assert await said(address, b"".join(asked)) == answers, "in one piece"
    assert await said(address, *(bytes([one]) for one in b"".join(asked[2:]))) == answers[2:], "byte by byte"


@pytest.mark.parametrize("way", ["/echo", "/read"])
@pytest.mark.parametrize("size", [10, 3 * 2**20])
async def test_a_body_comes_in_pieces_or_is_passed_over(address: Address, size: int, way: str) -> None:
    body = bytes(range(256)) * (size // 256) + b"end"
    whole, last = post(way, body), post(way, b"c", LAST)
    pieces = [whole[:70], whole[70 : 70 + size // 2], whole[70 + size // 2 :] + last]
    assert await said(address, *pieces) == [(200, body), (200, b"c")]
    whole = post("/refuse", body)
    pieces = [whole[:90], whole[90 : 90 + size // 2], whole[90 + size // 2 :] + last]
    assert await said(address, *pieces) == [(413, b"no"), (200, b"c")]


async def test_a_body_that_is_too_long_is_refused_however_it_comes(address: Address) -> None:
    whole, last = post("/read_little", b"123456789"), post("/read_little", b"12345678", LAST)
    answers = [(413, b"request-too-large"), (200, b"12345678")]
    assert await said(address, whole + last) == answers
    assert await said(address, whole[:-3], whole[-3:], last) == answers
    assert await said(address, chunked("/read_little", b"123456789"), last) == answers


async def test_an_answer_that_goes_wrong_is_no_answer(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(h11.RemoteProtocolError, match="without sending complete message"):
        await said(address, post("/lie_later", b""))
    assert "not as long as its head says" in caplog.text
    assert [status for status, _ in await said(address, post("/lie", b""))] == [500]
    assert [status for status, _ in await said(address, post("/break_head", b""))] == [500]
    assert "more than one line" in caplog.text


async def test_the_head_of_an_answer_leaves_with_what_comes_in_its_turn() -> None:
    sent: list[bytes] = []

    class Noting(asyncio.Transport):
        def write(self, data: bytes | bytearray | memoryview) -> None:
            sent.append(bytes(data))

    def begun() -> Exchange:
        sent.clear()
        return Exchange(Noting(), FlowControl(Noting()), [], 0, lambda: None)

    start = {"type": "http.response.start", "status": 200, "headers": []}
    event = {"type": "http.response.body", "body": b"a", "more_body": True}
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    exchange = begun()
    await exchange.send(start)
    await exchange.send(event)
    exchange.put(b"b")
    await asyncio.sleep(0)
    assert sent == [head + b"1\r\na\r\n", b"1\r\nb\r\n"]
    exchange = begun()
    await exchange.send(start)
    exchange.put(b"b")
    assert b"".join(sent) == head + b"1\r\nb\r\n"
    exchange = begun()
    await exchange.send(start)
    await asyncio.sleep(0)
    assert sent == [head]


async def test_what_is_put_at_once_ends_where_the_reader_is_slow(address: Address) -> None:
    asked = [post("/pour", b""), post("/echo", b"c", LAST)]
    assert await said(address, *asked) == [(200, b"".join(PIECES)), (200, b"c")]
    assert 2 * 65536 <= Pouring.put_bytes < sum(map(len, PIECES)) / 2


@pytest.mark.parametrize("size", [1, 3 * 2**20])
async def test_who_goes_is_not_worked_for(address: Address, size: int) -> None:
    Waiting.has_left = asyncio.Event()
    _, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(post("/wait", bytes(size)))
    await writer.drain()
    await asyncio.sleep(0.05)
    assert not Waiting.has_left.is_set()
    writer.close()
    async with asyncio.timeout(60):
        await Waiting.has_left.wait()


@pytest.mark.slow
async def test_a_connection_that_rests_is_closed_but_not_while_it_is_used(
    address: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS_MAX", 3.0)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    async with asyncio.timeout(60):
        for _ in range(12):
            writer.write(post("/echo", b"a"))
            assert (await reader.readuntil(b"\r\n\r\na")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.3)
        assert await reader.read() == b""
    writer.close()
