"""Requests that are routed: engines here, real servers in the part of the cloud, and all that fails."""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
import time
from collections import Counter
from typing import Any

import aiohttp
import numpy as np
import pytest

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.domain.models import Skill
from atoll.router.asked import Asked, Hints
from atoll.router.place import Kind, Place
from atoll.router.placing import breaker
from atoll.router.placing.eligible import why_not
from atoll.runtimes.echo import EchoRuntime
from atoll.web import language
from support.fix_link import eventually
from support.fix_routing import BODY, CHAT, Site, offered


async def test_the_first_place_that_is_preferred_answers(site: Site) -> None:
    said, trip = await site.say()
    assert said == "one one one"
    assert trip.header.startswith("cloud:one; route=ask; id=")
    assert trip.end == "answered"
    site.route(prefer=["here", "cloud"])
    assert (await site.say())[0] == "said here"
    assert len(site.one.asks) == 1
    assert site.two.asks == []


@pytest.mark.parametrize("mood", [500, 503, 429, 401, "empty"])
async def test_where_a_place_fails_before_its_first_word_the_next_is_asked(
    site: Site, mood: str | int
) -> None:
    site.one.mood = mood
    said, trip = await site.say()
    assert said == "two two two"
    assert [one["place"] for one in trip.tries] == ["cloud:one", "cloud:two"]
    assert "code" in trip.tries[0]


async def test_with_the_cloud_down_this_node_answers(site: Site) -> None:
    site.one.mood = site.two.mood = 502
    said, trip = await site.say()
    assert said == "said here"
    assert len(trip.tries) == 3


async def test_a_request_that_is_wrong_is_refused_once(site: Site) -> None:
    site.one.mood = 400
    with pytest.raises(DataError) as refused:
        await site.say()
    assert refused.value.code == "request-refused"
    assert site.two.asks == []


async def test_what_is_too_long_for_one_model_is_asked_of_another(site: Site) -> None:
    site.one.mood = "short"
    said, trip = await site.say()
    assert (said, [one["place"] for one in trip.tries]) == ("two two two", ["cloud:one", "cloud:two"])
    site.two.mood = "short"
    assert (await site.say())[0] == "said here"
    site.route(prefer=["cloud"])
    with pytest.raises(DataError, match="longer than the model's context") as refused:
        await site.say()
    assert refused.value.code == "prompt-too-long"
    status, _, told = await site.post()
    assert (status, told["error"]["code"]) == (400, "context_length_exceeded"), "which clients look for"
    site.two.mood = 500
    with pytest.raises(LinkError) as away:
        await site.say()
    assert away.value.code == "no-place", "the other might have read it, later"
    for _ in range(breaker.FAILURES_MAX):
        with pytest.raises(LinkError, match="answers now"):
            await site.say()


async def test_after_the_first_word_nobody_else_is_asked(site: Site) -> None:
    site.one.mood = "cut"
    with pytest.raises(LinkError) as broken:
        await site.say()
    assert broken.value.code == "runtime-broken"
    assert site.two.asks == []


async def test_a_mute_place_is_left_in_time_for_another(site: Site) -> None:
    site.route(first_token_seconds=0.2)
    site.one.mood = "mute"
    said, trip = await site.say()
    assert said == "two two two"
    assert trip.tries[0]["code"] == "runtime-slow"
    site.two.mood = "fine"
    await site.quiet()


async def test_one_deadline_holds_for_the_whole_chain(site: Site) -> None:
    site.route(deadline_seconds=0.5, prefer=["cloud"])
    site.one.mood = site.two.mood = "mute"
    began = asyncio.get_running_loop().time()
    with pytest.raises(LinkError) as late:
        await site.say()
    assert late.value.code == "deadline-passed"
    assert asyncio.get_running_loop().time() - began >= 0.49
    assert (len(site.one.asks), len(site.two.asks)) == (1, 1), "half of the time was the second's"
    await site.quiet()


async def test_a_caller_may_shorten_the_deadline_and_not_lengthen_it(site: Site) -> None:
    site.route(deadline_seconds=0.3, prefer=["cloud:one"])
    site.one.mood = "mute"
    for seconds in (0.1, 600.0):
        with pytest.raises(LinkError) as late:
            await site.say(deadline_seconds=seconds)
        assert late.value.code == "deadline-passed"
    await site.quiet()


async def test_a_breaker_opens_and_lets_one_request_try_again(site: Site) -> None:
    site.route(prefer=["cloud:one", "cloud:two"])
    site.one.mood = 500
    for _ in range(breaker.FAILURES_MAX + 3):
        assert (await site.say())[0] == "two two two"
    assert len(site.one.asks) == breaker.FAILURES_MAX
    site.one.mood = "fine"
    site.now += breaker.PAUSE_SECONDS_FIRST + 1
    assert (await site.say())[0] == "one one one"
    assert (await site.say())[0] == "one one one"


async def test_a_wall_clock_that_jumps_changes_nothing_about_where_requests_go(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumps = itertools.cycle([0.0, 1e9, -1e9, 3600.0, -7200.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    site.route(prefer=["cloud:one", "cloud:two"])
    site.one.mood = 500
    for _ in range(breaker.FAILURES_MAX):
        await site.say()
    for _ in range(5):
        assert (await site.say())[0] == "two two two"
    assert len(site.one.asks) == breaker.FAILURES_MAX, "its breaker stays open"
    site.now += breaker.PAUSE_SECONDS_FIRST + 1
    site.one.mood = "fine"
    assert (await site.say())[0] == "one one one"
    site.one.mood = site.two.mood = "mute"
    began = asyncio.get_running_loop().time()
    with pytest.raises(LinkError) as late:
        await site.say(deadline_seconds=0.3)
    assert late.value.code == "deadline-passed"
    assert asyncio.get_running_loop().time() - began >= 0.29


async def test_where_all_are_busy_the_caller_hears_when_to_come_again(site: Site) -> None:
    site.route(prefer=["cloud"])
    site.one.mood, site.one.retry_after = 429, "40"
    site.two.mood, site.two.retry_after = 429, "20"
    for expected in (1, 1):
        with pytest.raises(LinkError) as busy:
            await site.say()
        assert busy.value.code == "runtime-crowded"
        assert 15 < (busy.value.retry_after_seconds or 0) <= 20
        assert len(site.one.asks) == expected, "who said when to come again is not asked before"
    status, headers, told = await site.post()
    assert (status, told["error"]["code"]) == (429, "runtime-crowded")
    assert 15 < int(headers["Retry-After"]) <= 20
    site.now += 21
    site.two.mood = "fine"
    assert (await site.say())[0] == "two two two"


async def test_what_is_local_never_leaves_also_when_this_node_is_in_trouble(site: Site) -> None:
    assert (await site.say(label="patient"))[0] == "said here"
    await site.serving.desire([])
    for changed in ({"label": "patient"}, {"scopes": frozenset({"local"})}, {"scopes": frozenset({"?"})}):
        with pytest.raises(AtollError) as refused:
            await site.say(**changed)
        assert refused.value.code == "no-place"
    assert site.one.asks == site.two.asks == []


async def test_a_scope_that_forbids_all_is_a_no_and_a_label_that_is_unknown_too(site: Site) -> None:
    site.route(prefer=["cloud"])
    with pytest.raises(PolicyDenied) as denied:
        await site.say(label="patient")
    assert denied.value.code == "no-place"
    with pytest.raises(DataError) as unknown:
        await site.say(label="patients")
    assert unknown.value.code == "label-unknown"
    status, headers, told = await site.post(headers={"x-atoll-label": "patient"})
    assert (status, told["error"]["code"]) == (403, "no-place")
    assert headers["x-atoll-decision"].startswith("none; route=ask; id=")
    assert site.one.asks == site.two.asks == []


async def test_a_cap_counts_for_the_whole_chain(site: Site) -> None:
    """Two tries together would be too dear: the second place of the cloud is not asked any more."""
    site.one.mood = 500
    cost = 2.0 * 100 / 1e6
    asked: dict[str, Any] = {"tokens_out": 100, "max_cost": 1.5 * cost}
    said, trip = await site.say(**asked)
    assert said == "said here"
    assert [one["place"] for one in trip.tries] == ["cloud:one", "here"]
    assert (await site.say(tokens_out=100, max_cost=2.5 * cost))[0] == "two two two"


async def test_a_late_place_is_hedged_and_who_begins_first_answers(site: Site) -> None:
    site.route(hedge_after_seconds=0.05, prefer=["cloud:one", "cloud:two", "here"])
    site.one.mood = "mute"
    said, trip = await site.say()
    assert said == "two two two"
    assert trip.place is not None
    assert trip.place.label == "cloud:two"
    await site.quiet()
    site.one.mood, site.one.late_seconds = "late", 0.3
    site.two.mood = 500
    assert (await site.say())[0] == "one one one", "the first goes on where the second fails"
    site.one.mood = site.two.mood = 500
    assert (await site.say())[0] == "said here"


@pytest.mark.parametrize("hedge", [None, 5.0])
async def test_a_place_that_breaks_off_in_the_middle_is_left_alone(site: Site, hedge: float | None) -> None:
    site.route(hedge_after_seconds=hedge, prefer=["cloud:one", "cloud:two"])
    site.one.mood = "cut"
    for _ in range(breaker.FAILURES_MAX):
        with pytest.raises(LinkError) as broken:
            await site.say()
        assert broken.value.code == "runtime-broken"
    assert (await site.say())[0] == "two two two"
    assert len(site.one.asks) == breaker.FAILURES_MAX


async def test_a_whole_answer_that_breaks_off_is_asked_for_elsewhere(site: Site) -> None:
    site.route(prefer=["cloud:one", "cloud:two", "here"])
    site.one.mood = "cut"
    for bound in ({"provider": {"allow_fallbacks": False}}, {"headers": {"x-atoll-max-cost": "9"}}):
        status, _, told = await site.post(**bound, max_tokens=5)
        assert (status, told["error"]["code"]) == (503, "runtime-broken"), "it may be asked once"
    site.one.mood = "fine"
    await site.post()
    site.one.mood = "cut"
    status, headers, told = await site.post()
    assert (status, told["choices"][0]["message"]["content"]) == (200, "two two two ")
    assert headers["x-atoll-decision"].startswith("cloud:two")
    site.two.mood = "cut"
    status, headers, _ = await site.post()
    assert (status, headers["x-atoll-decision"].split(";")[0]) == (200, "here")
    assert [len(site.one.asks), len(site.two.asks)] == [5, 2]
    status, _, told = await site.post(provider={"only": ["cloud"]})
    assert (status, told["error"]["code"]) == (503, "runtime-broken"), "there is nowhere else"


async def test_a_whole_answer_without_an_end_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "ANSWER_BYTES_MAX", 100_000)
    site.route(models={"cloud": ["one"]}, prefer=["cloud"])
    site.one.words = 10_000
    status, _, told = await site.post()
    assert status == 503
    assert "no end" in told["error"]["message"]
    await eventually(lambda: not site.one.open, "the place is free")
    asked = {**BODY, "model": "ask", "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{site.address}{CHAT}", json=asked) as answer,
    ):
        assert (await answer.text()).count("one ") == site.one.words


async def test_who_leaves_frees_every_place_that_was_asked(site: Site) -> None:
    site.route(hedge_after_seconds=0.02, prefer=["cloud"])
    site.one.mood = site.two.mood = "mute"
    asking = asyncio.create_task(site.say())
    async with asyncio.timeout(30):
        while not (site.one.open and site.two.open):
            await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await site.quiet()


async def test_a_peer_is_asked_with_scopes_and_what_is_left_of_the_deadline(site: Site) -> None:
    near = EchoRuntime(name="near")
    await near.start()
    site.peers.nodes[2] = offered(2, "reef"), near
    site.peers.nodes[3] = offered(3, "jade", region="us"), near
    site.route(prefer=["peer"])
    scopes = frozenset({"region:eu", "global"})
    said, trip = await site.say(scopes=scopes)
    assert (said, trip.header.split(";")[0]) == ("said here", "reef")
    ((node, sent, left),) = site.peers.asked
    assert (node, sent) == (2, scopes)
    assert left is not None
    assert 0 < left <= 30
    with pytest.raises(PolicyDenied):
        await site.say(scopes=frozenset({"region:asia"}))
    near.end("it was killed")
    site.route(prefer=["peer", "here"])
    assert (await site.say())[1].header.startswith("here")


async def test_where_nobody_can_be_asked_now_the_caller_may_come_again(site: Site) -> None:
    site.route(labels={}, prefer=["peer"])
    status, headers, told = await site.post()
    assert (status, told["error"]["code"]) == (503, "no-place"), told
    assert int(headers["Retry-After"]) > 0


async def test_a_cloud_behind_a_peer_sees_what_both_their_regions_may(site: Site) -> None:
    near = EchoRuntime()
    terms: dict[str, Any] = {"model": "far", "is_upstream": True, "price": (1.0, 2.0)}
    site.peers.nodes[2] = offered(2, "reef", **terms), near
    site.peers.nodes[3] = offered(3, "jade", node_region="us", **terms), near
    site.route(models={"cloud": ["far"]}, prefer=["cloud"])
    for scope, led in (("region:eu", ["cloud:far@reef"]), ("node:2", []), ("region:us", [])):
        found = site.router.explain(Asked("ask", CHAT, Skill.GENERATE, scopes=frozenset({scope})))
        assert [place.label for place in found.order] == led, scope
    found = site.router.explain(Asked("ask", CHAT, Skill.GENERATE, scopes=frozenset({"global"})))
    assert len(found.order) == 2


async def test_vectors_and_tensors_take_the_same_way(site: Site) -> None:
    site.one.mood = 500
    status, headers, told = await site.post("/v1/embeddings", input=["a", "b"])
    assert (status, len(told["data"])) == (200, 2)
    assert headers["x-atoll-decision"].startswith("cloud:two")
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [0.5]}
    status, headers, told = await site.post("/v2/models/ask/infer", inputs=[tensor])
    assert status == 200, told
    assert headers["x-atoll-decision"].startswith("here")
    assert np.allclose(told["outputs"][0]["data"], [0.5])
    site.route(labels={}, prefer=["cloud"])
    status, _, told = await site.post("/v2/models/ask/infer", inputs=[tensor])
    assert (status, told["code"]) == (400, "no-place")


async def test_over_http_answers_say_where_they_come_from(site: Site) -> None:
    status, headers, told = await site.post(provider={"only": ["here"]})
    assert status == 200
    assert told["model"] == "ask"
    where, route, name = headers["x-atoll-decision"].split("; ")
    assert (where, route) == ("here", "route=ask")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{site.address}/api/decisions/{name.removeprefix('id=')}") as answer:
            decision = await answer.json()
        async with session.get(f"{site.address}/api/decisions/none") as answer:
            assert answer.status == 404
        login = {"Authorization": "Basic " + base64.b64encode(b"app:guessed").decode()}
        async with session.get(f"{site.address}/api/decisions/none", headers=login) as answer:
            assert answer.status == 401
    assert decision["answered_by"]["place"] == "here"
    assert {one["place"]: one["why"] for one in decision["out"]}["cloud:one"] == [
        "the request is for other places"
    ]
    await site.post(provider={"order": ["two"], "allow_fallbacks": True})
    assert "provider" not in site.two.asks[0], "what is said to this node is not passed on"
    status, _, told = await site.post(provider={"zdr": True})
    assert (status, told["error"]["code"]) == (400, "hint-malformed")
    status, headers, _ = await site.post(model="own")
    assert status == 200
    assert "x-atoll-decision" not in headers


async def test_where_a_request_would_go_can_be_asked_without_asking_it(site: Site) -> None:
    status, _, told = await site.post("/api/routes/explain", route="ask", scopes=["local"])
    assert (status, told["error"]["code"]) == (400, "request-malformed"), "model and messages are no fields"
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{site.address}/api/routes/explain", json={"route": "ask", "scopes": ["local"]}
        ) as answer,
    ):
        told = await answer.json()
    assert [one["place"] for one in told["places"]] == ["here"]
    assert [one["place"] for one in told["out"]] == ["cloud:one", "cloud:two"]


async def test_rows_are_not_quoted_to_somebody_elses_model_without_a_route(site: Site) -> None:
    site.router.check_direct("own", None, {"local"})
    site.router.check_direct("one", None, {"global", "region:eu"})
    for scope in ("local", "node:1", "region:us"):
        with pytest.raises(PolicyDenied):
            site.router.check_direct("one", None, {"global", scope})


@pytest.mark.parametrize(("named", "hint"), [("aks", 'the route "ask"'), ("owm", '"own"')])
async def test_who_mistypes_a_name_is_told_what_may_be_meant(site: Site, named: str, hint: str) -> None:
    status, _, told = await site.post(model=named)
    assert (status, told["error"]["code"]) == (404, "model-unknown")
    assert f"Did you mean {hint}?" in told["error"]["message"]


async def test_a_name_that_is_longer_than_any_is_not_looked_for(site: Site) -> None:
    status, _, told = await site.post(model="k" * 257)
    assert (status, told["error"]["code"]) == (400, "request-malformed")
    assert len(told["error"]["message"]) < 100
    status, _, told = await site.post(model="k" * 256)
    assert (status, told["error"]["code"]) == (404, "model-unknown")


async def test_counters_are_those_of_routes_that_there_are(site: Site) -> None:
    await site.say()
    samples = [one for family in site.router.numbers() for one in family.samples]
    assert {"route": "ask", "place": "cloud", "end": "answered"} in [one.labels for one in samples]
    site.router.set_routes([])
    assert [one.name for family in site.router.numbers() for one in family.samples] == [
        "atoll_route_places_paused"
    ]


@pytest.mark.slow
async def test_no_try_ever_goes_where_it_may_not(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fails, whatever is asked: each place that is asked was one that may be, at that moment."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    near, far = EchoRuntime(name="near"), EchoRuntime(name="far")
    await near.start()
    await far.start()
    site.peers.nodes[2] = offered(2, "reef"), near
    site.peers.nodes[3] = offered(3, "jade", region="us", tier="hub"), far
    ends: Counter[str] = Counter()
    for _ in range(150):
        for provider in site.providers:
            provider.mood = chance.choice(["fine", 500, 429, "empty", "fine"])
        site.route(
            models={kind: ["own"] for kind in ("here", "peer", "hub")} | {"cloud": ["one", "two"]},
            prefer=chance.sample(["here", "peer", "hub", "cloud", "reef", "cloud:two"], chance.randint(1, 4)),
            hedge_after_seconds=chance.choice([None, None, 0.0]),
            max_cost=chance.choice([None, 3e-4]),
        )
        asked = Asked(
            "ask",
            CHAT,
            Skill.GENERATE,
            tokens_out=chance.choice([None, 100]),
            scopes=frozenset(
                chance.sample(["local", "global", "region:eu", "region:us", "node:2"], chance.randint(0, 1))
            ),
            label=chance.choice([None, None, "patient"]),
            hints=Hints(
                only=chance.choice([None, ("here", "cloud"), ("reef",)]),
                allow_fallbacks=chance.random() < 0.8,
            ),
        )
        site.now += chance.choice([0.0, 5.0])
        before = len(site.peers.asked), len(site.one.asks), len(site.two.asks)
        chain = site.router.generate(asked, BODY)
        asked_of: list[Place] = []
        open_at = chain._open_at

        def watched(where: Place, *more: Any, open_at: Any = open_at, seen: Any = asked_of) -> Any:
            seen.append(where)
            return open_at(where, *more)

        monkeypatch.setattr(chain, "_open_at", watched)
        try:
            async with chain.answer() as events:
                async for _event in events:
                    pass
        except AtollError:
            pass
        ends[chain.trip.end] += 1
        route = site.router.route("ask")
        for where in asked_of:
            assert why_not(asked, route, where) == ()
        assert len({where.key for where in asked_of}) == len(asked_of), "no place is tried twice"
        sent = sum((len(site.peers.asked), len(site.one.asks), len(site.two.asks))) - sum(before)
        assert sent <= sum(where.kind is not Kind.HERE for where in asked_of)
        spent = sum(2.0 * 100 / 1e6 for where in asked_of if where.kind is Kind.CLOUD)
        crowded = sum(one.get("code") == "runtime-crowded" for one in chain.trip.tries) * 2.0 * 100 / 1e6
        assert route.max_cost is None or spent - crowded <= route.max_cost
    assert ends["answered"] > 20, ends
    assert ends["refused"] > 20, ends
