"""Control links between two nodes over TLS: requests both ways, errors, bounds, one link per pair."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from atoll.domain.errors import LinkError, PolicyDenied
from atoll.identity.certificate import PeerIdentity
from atoll.link.report import Peer
from support.fix_link import FAST, Shore, connect, eventually, shore

__all__ = ["shore"]

Payload = dict[str, Any]


async def test_requests_are_answered_in_both_directions(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)

    async def greet(peer: PeerIdentity, payload: Payload) -> Payload:
        return {"you": peer.number, "named": peer.name, "said": payload["say"]}

    for links in (one, two):
        links.handle("greet", greet)
    await connect(one, two)
    assert await one.request(2, "greet", {"say": "höi"}) == {"you": 1, "named": "n1", "said": "höi"}
    assert await two.request(1, "greet", {"say": None}) == {"you": 2, "named": "n2", "said": None}


async def test_an_error_travels_with_everything_that_it_says(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)

    async def refuse(peer: PeerIdentity, payload: Payload) -> Payload:
        raise PolicyDenied("stays-here", "cannot send it", detail="A scope.", hint="Ask the owner.")

    async def fail(peer: PeerIdentity, payload: Payload) -> Payload:
        raise ValueError("a secret path")

    two.handle("refuse", refuse)
    two.handle("fail", fail)
    await connect(one, two)
    with pytest.raises(PolicyDenied) as denied:
        await one.request(2, "refuse", {})
    error = denied.value
    assert (error.code, error.message, error.detail, error.hint) == (
        "stays-here", "cannot send it", "A scope.", "Ask the owner.",
    )  # fmt: skip
    for method, code in (("fail", "request-failed"), ("nonsense", "method-unknown")):
        with pytest.raises(LinkError) as caught:
            await one.request(2, method, {})
        assert caught.value.code == code
        assert "secret" not in f"{caught.value} {caught.value.detail}"
    assert one.report()[0].state == "up"


async def test_a_request_without_an_answer_ends_and_the_link_goes_on(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    never = asyncio.Event()

    async def wait(peer: PeerIdentity, payload: Payload) -> Payload:
        await never.wait()
        return {"late": True}

    async def now(peer: PeerIdentity, payload: Payload) -> Payload:
        return {}

    two.handle("wait", wait)
    two.handle("now", now)
    await connect(one, two)
    with pytest.raises(LinkError) as caught:
        await one.request(2, "wait", {}, timeout_seconds=0.05)
    assert caught.value.code == "request-timeout"
    never.set()
    assert await one.request(2, "now", {}) == {}


async def test_a_node_without_a_link_is_told_at_once(shore: Shore) -> None:
    one = await shore.links(1)
    for number in (2, 77):
        with pytest.raises(LinkError) as caught:
            await one.request(number, "greet", {})
        assert caught.value.code == "link-down"
    with pytest.raises(LinkError):
        await one.open_stream(2)


async def test_large_messages_pass_and_too_large_ones_are_refused_before_they_leave(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)

    async def measure(peer: PeerIdentity, payload: Payload) -> Payload:
        return {"length": len(payload["text"]), "text": payload["text"]}

    two.handle("measure", measure)
    await connect(one, two)
    text = "ä" * 2_000_000
    assert await one.request(2, "measure", {"text": text}) == {"length": len(text), "text": text}
    with pytest.raises(LinkError) as caught:
        await one.request(2, "measure", {"text": "x" * 9_000_000})
    assert caught.value.code == "message-too-large"
    assert one.report()[0].state == "up"


async def test_many_requests_at_once_stay_within_the_bound(shore: Shore) -> None:
    settings = replace(FAST, requests_max=5)
    one, two = await shore.links(1, settings=settings), await shore.links(2, settings=settings)
    running = most = 0

    async def work(peer: PeerIdentity, payload: Payload) -> Payload:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return payload

    two.handle("work", work)
    await connect(one, two)
    answers = await asyncio.gather(*(one.request(2, "work", {"n": n}) for n in range(100)))
    assert [answer["n"] for answer in answers] == list(range(100))
    assert 1 <= most <= 5


async def test_when_both_dial_one_link_stays_and_it_is_the_lower_number_s(shore: Shore) -> None:
    for _ in range(10):
        one, two = await shore.links(1), await shore.links(2)

        async def greet(peer: PeerIdentity, payload: Payload) -> Payload:
            return {}

        for links in (one, two):
            links.handle("greet", greet)
        await connect(one, two)
        # Requests must not be lost while the second link makes way.
        for _ in range(5):
            await asyncio.gather(one.request(2, "greet", {}), two.request(1, "greet", {}))
        await eventually(
            lambda one=one, two=two: {one.report()[0].dialled_by, two.report()[0].dialled_by} == {1},
            "keeping the link of node 1",
        )
        await one.stop()
        await two.stop()


async def test_a_peer_that_is_no_longer_wanted_is_left(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    await connect(one, two)
    two.set_peers([])
    one.set_peers([])
    await eventually(lambda: one.report()[0].state == two.report()[0].state == "removed")


async def test_the_wrong_node_behind_an_address_is_refused(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    one.set_peers([Peer(3, "n3", (f"127.0.0.1:{two.port}",))])
    await eventually(lambda: one.refusals().get("wrong-node"))
    assert "n2" in (one.report()[0].last_error or "")
    assert two.report() == []


async def test_a_restarted_peer_is_found_again_with_its_new_boot(shore: Shore) -> None:
    one, two = await shore.links(1), await shore.links(2)
    await connect(one, two, both_dial=False)
    identity, port = two._identity, two.port
    await two.stop()
    await eventually(lambda: one.report()[0].state == "dialling")
    again = await shore.links(2, identity=identity, listen=("127.0.0.1", port), boot="second")
    again.set_peers([Peer(1, "n1")])
    await eventually(lambda: one.report()[0].state == "up")
    report = one.report()[0]
    assert (report.peer_boot, report.reconnects, report.last_error) == ("second", 1, None)
