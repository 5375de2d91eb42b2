"""HTTP of a node on a real socket: alive, ready or why not, numbers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from atoll.domain.errors import ConfigError
from atoll.node import listen
from atoll.node.values import Address
from atoll.observe.metrics import Metrics, counter, gauge
from atoll.web import app as app_of_node
from atoll.web import bodies, connection
from atoll.web.app import WebServer, make_app
from atoll.web.callers import while_there
from atoll.web.questions import question_route


async def ask(address: Address, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def test_a_node_says_whether_it_lives_and_is_ready_and_its_numbers() -> None:
    reasons = {"disk": "full"}
    metrics = Metrics()
    metrics.add(lambda: [gauge("atoll_things", "Things.", 3, name="a"), counter("atoll_acts", "Acts.", 2)])
    listener = listen.bind(Address("127.0.0.1", 0), "--http")
    address = listen.bound(listener)
    serving = asyncio.create_task(WebServer(make_app(lambda: reasons, metrics.registry), listener).run())
    assert await ask(address, "/healthz") == (200, "ok\n")
    status, body = await ask(address, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "reasons": {"disk": "full"}})
    reasons.clear()
    assert (await ask(address, "/readyz"))[0] == 200
    status, body = await ask(address, "/metrics")
    assert 'atoll_things{name="a"} 3.0' in body
    assert "atoll_acts_total 2.0" in body
    assert (await ask(address, "/else"))[0] == 404
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await ask(address, "/healthz")


def test_a_taken_port_and_a_foreign_address_are_refused_with_the_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError, match="is in use") as caught:
            listen.bind(Address("127.0.0.1", taken.getsockname()[1]), "--http")
        assert "--http" in str(caught.value.hint)
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1:1") as caught:
        listen.bind(Address("192.0.2.1", 1), "--link")
    assert "--link" in str(caught.value.hint)


def test_what_is_answered_is_sent_at_once() -> None:
    with listen.bind(Address("127.0.0.1", 0), "--http") as listener:
        WebServer(make_app(dict, Metrics().registry), listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def served(*routes: Route) -> tuple[asyncio.Task[None], Address]:
    listener = listen.bind(Address("127.0.0.1", 0), "--http")
    server = WebServer(make_app(dict, Metrics().registry, routes), listener)
    return asyncio.create_task(server.run()), listen.bound(listener)


async def end(serving: asyncio.Task[None]) -> None:
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_a_path_is_found_again_and_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_of_node, "KNOWN_MAX", 2)

    async def tell(request: Request) -> Response:
        return Response(f"{request.path_params['name']}")

    app: Any = make_app(dict, Metrics().registry, [Route("/tell/{name}", tell)])
    listener = listen.bind(Address("127.0.0.1", 0), "--http")
    serving = asyncio.create_task(WebServer(app, listener).run())
    for name in ("a", "b", "a", "c", "c" * 300, "a"):
        assert await ask(listen.bound(listener), f"/tell/{name}") == (200, name)
        assert len(app._known) <= 2
        assert all(len(path) < 300 for _, path in app._known)
    assert (await ask(listen.bound(listener), "/tell/a/b"))[0] == 404
    await end(serving)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTT", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGE"])
async def test_who_sends_no_request_gets_no_place_for_long(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.2)
    serving, address = await served()
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(sent)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(60):
            await reader.read()
    writer.close()
    assert (await ask(address, "/healthz"))[0] == 200
    await end(serving)


async def test_who_takes_nothing_of_an_answer_does_not_hold_what_makes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "STILL_SECONDS_MAX", 0.2)
    has_ended = asyncio.Event()

    class Endless(Response):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await while_there(scope, receive, self._go_on(send))

        async def _go_on(self, send: Send) -> None:
            try:
                await send({"type": "http.response.start", "status": 200})
                while True:
                    await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
                    await asyncio.sleep(0)  # as whoever waits for an engine's next word
            finally:
                has_ended.set()

    async def endless(request: Request) -> Response:
        return Endless()

    serving, address = await served(Route("/endless", endless))
    _, writer = await asyncio.open_connection(address.host, address.port, limit=1)
    writer.write(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        await has_ended.wait()
    writer.close()
    await end(serving)


async def test_work_ends_quietly_when_the_caller_goes_and_loudly_when_somebody_else_ends_it() -> None:
    ended = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    async def gone() -> dict[str, str]:
        return {"type": "http.disconnect"}

    async def there() -> dict[str, str]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async with asyncio.timeout(60):
        await while_there({}, gone, work())
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await while_there({}, there, work())
    assert ended == [True, True]


async def test_connections_wait_while_the_node_is_busy() -> None:
    serving, address = await served()
    assert await ask(address, "/healthz") == (200, "ok\n")
    callers = [socket.create_connection((address.host, address.port), timeout=10) for _ in range(64)]
    assert await ask(address, "/healthz") == (200, "ok\n")
    for caller in callers:
        caller.close()
    await end(serving)


async def test_who_takes_a_long_answer_slowly_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.05)
    long = 24 * 1024**2

    async def answer(request: Request) -> Response:
        return Response(bytes(long))

    serving, address = await served(Route("/long", answer))
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=2**14)
    writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    taken = 0
    while taken < long:
        taken += len(part := await reader.read(2**16))
        assert part, f"it broke off after {taken} bytes"
        await asyncio.sleep(0.001)
    writer.close()
    await end(serving)


async def test_who_takes_nothing_of_an_answer_that_is_made_gets_no_place_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS_MAX", 0.1)
    monkeypatch.setattr(connection, "STILL_SECONDS_MAX", 0.1)

    is_gone = asyncio.Event()

    class Noted(connection.Connection):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            is_gone.set()

    async def answer(request: Request) -> Response:
        return Response(bytes(24 * 1024**2))

    monkeypatch.setattr(app_of_node, "Connection", Noted)
    serving, address = await served(Route("/long", answer))
    _, writer = await asyncio.open_connection(address.host, address.port, limit=1)
    writer.write(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(60):
        await is_gone.wait()
    writer.close()
    await end(serving)


async def test_a_body_that_does_not_come_to_its_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS_MAX", 0.2)
    route = question_route(cast("Any", None), lambda: "secret")
    serving, address = await served(route)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    login = base64.b64encode(b"app:secret").decode()
    head = f"POST /query HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nContent-Length: 100\r\n\r\n{{"
    writer.write(head.encode())
    async with asyncio.timeout(60):
        answer = await reader.readuntil(b"}")
    assert b" 503 " in answer
    assert b"did not come to its end" in answer
    writer.close()
    await end(serving)


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/x", {"error": ["message", "type", "param", "code"]}),
        ("/v2/x", {"error": None, "code": None}),
        ("/x", {"error": ["code", "message", "detail", "hint"]}),
    ],
)
async def test_a_fault_of_our_own_is_told_in_the_words_of_the_protocol(
    path: str, shape: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(request: Request) -> Response:
        raise ZeroDivisionError

    serving, address = await served(Route(path, fails))
    status, body = await ask(address, path)
    assert status == 500
    told = json.loads(body)
    assert list(told) == list(shape)
    if isinstance(told["error"], dict):
        assert list(told["error"]) == shape["error"]
    assert "ZeroDivisionError" in caplog.text
    await end(serving)
