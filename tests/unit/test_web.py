"""HTTP of a node on a real socket: alive, ready or why not, numbers."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from atoll.domain.errors import ConfigError
from atoll.node import listen
from atoll.node.values import Address
from atoll.observe.metrics import Metrics, counter, gauge
from atoll.web.app import WebServer, make_app


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
