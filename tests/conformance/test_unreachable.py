"""Routes whose places are out of reach: the policy that ages, and what becomes of a request then."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atoll.domain.errors import LinkError
from atoll.domain.models import Skill
from atoll.router.asked import Asked
from atoll.router.place import Kind
from atoll.router.placing.heard import Heard
from atoll.router.policy.route import from_row
from support.fix_routing import CHAT, ROUTE, Site

CLOUD_ONLY: dict[str, Any] = {"prefer": ["cloud"], "models": {"here": ["own"], "cloud": ["one", "two"]}}


def only_clouds(site: Site, **options: Any) -> None:
    site.route(**CLOUD_ONLY, options=options)


def nobody_answers(site: Site) -> None:
    site.one.mood = site.two.mood = 502


def test_what_was_heard_grows_older_with_the_clock() -> None:
    heard = Heard(100.0, at=50.0)
    assert heard.age_seconds(50.0) == 100
    assert not heard.has_expired(200.0, 150.0)
    assert heard.has_expired(200.0, 150.5)
    assert not heard.has_expired(None, 1e9), "a route that says nothing does not age"
    assert not Heard(None, 0.0).has_expired(1.0, 1e9), "who is alone knows all that there is to know"
    assert Heard(-3600.0, 0.0).age_seconds(1.0) == 1, "a clock that was set back makes nothing younger"


async def test_a_policy_that_is_too_old_leads_nowhere_but_here_until_somebody_is_heard(site: Site) -> None:
    site.route(options={"policy_expires_seconds": 600})
    site.router.set_heard(30.0)
    assert (await site.say())[0] == "one one one"
    site.now += 571
    assert (await site.say())[0] == "said here"
    assert len(site.one.asks) == 1
    status, headers, told = await site.post("/v1/chat/completions", {"x-atoll-place": "cloud"})
    assert (status, told["error"]["code"]) == (503, "no-place"), "it may be otherwise later"
    assert "no other node was heard for too long" in told["error"]["message"]
    assert "provisional" not in headers["x-atoll-decision"]
    site.router.set_heard(1.0)
    assert (await site.say())[0] == "one one one"


async def test_with_nobody_to_be_reached_the_own_model_answers_and_says_so(site: Site) -> None:
    only_clouds(site, unreachable="here")
    status, headers, told = await site.post()
    assert (status, headers["x-atoll-decision"].partition(";")[0]) == (200, "cloud:one")
    assert "provisional" not in told
    nobody_answers(site)
    status, headers, told = await site.post()
    assert (status, told["provisional"]) == (200, True)
    assert headers["x-atoll-provisional"] == "true"
    assert headers["x-atoll-decision"].startswith("here; route=ask; provisional; id=")
    decision = site.router.decision(headers["x-atoll-decision"].rpartition("=")[2])
    assert (decision["provisional"], decision["answered_by"]["model"]) == (True, "own")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_a_stream_says_with_its_first_event_that_it_is_provisional(site: Site, path: str) -> None:
    only_clouds(site, unreachable="here")
    nobody_answers(site)
    status, headers, content = await site.ask(path, stream=True, max_tokens=3)
    assert (status, headers["x-atoll-provisional"]) == (200, "true")
    first, second, *_ = [line for line in content.split(b"\n") if line.startswith(b"data: {")]
    assert json.loads(first[6:])["provisional"] is True
    assert "provisional" not in json.loads(second[6:])
    if path == "/v1/messages":
        assert content.startswith(b"event: message_start\n")


async def test_what_may_not_be_answered_here_is_not_answered_here(site: Site) -> None:
    only_clouds(site, unreachable="here")
    nobody_answers(site)
    status, _, told = await site.post(headers={"x-atoll-place": "cloud"})
    assert (status, told["error"]["code"]) == (503, "no-place")
    status, _, told = await site.post(headers={"x-atoll-label": "patient"})
    assert (status, told["error"]["code"]) == (403, "no-place"), "it is forbidden, not out of reach"
    status, _, told = await site.post("/v1/embeddings", input="a")
    assert (status, told["error"]["code"]) == (503, "no-place"), "vectors of two models cannot be compared"
    only_clouds(site)
    assert (await site.post())[0] == 503, "a route that says nothing refuses"
    site.route(prefer=["cloud"], models={"cloud": ["one"]}, options={"unreachable": "here"})
    assert (await site.post())[0] == 503, "there is no model to stand in"


async def test_tensors_are_answered_here_too(site: Site) -> None:
    only_clouds(site, unreachable="here")
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}
    nobody_answers(site)
    status, headers, told = await site.post("/v2/models/ask/infer", None, **asked)
    assert (status, told["code"]) == (400, "no-place"), "clouds infer nothing: nobody is out of reach"
    site.router.set_heard(1000.0)
    site.route(
        prefer=["peer"],
        models={"here": ["own"], "peer": ["own"]},
        options={"unreachable": "here", "policy_expires_seconds": 600},
    )
    status, headers, told = await site.post("/v2/models/ask/infer", None, **asked)
    assert (status, headers.get("x-atoll-provisional")) == (200, "true"), told


def test_a_route_that_stands_in_leads_here_alone() -> None:
    route = from_row(ROUTE | CLOUD_ONLY | {"options": {"unreachable": "here", "keys": ["till"]}})
    instead = route.provisional()
    assert instead is not None
    assert (dict(instead.models), instead.prefer, instead.keys) == (
        {Kind.HERE: ("own",)},
        (Kind.HERE,),
        ("till",),
    )
    assert instead.labels == route.labels
    assert instead.provisional() is None
    assert from_row(ROUTE | {"options": {"unreachable": "queue"}}).provisional() is None


async def test_only_who_could_not_be_reached_is_stood_in_for(site: Site) -> None:
    only_clouds(site, unreachable="here")
    asked = Asked("ask", CHAT, Skill.GENERATE)
    assert site.router.unreachable(asked, LinkError("no-place", "nobody")) == "here"
    for code in ("runtime-crowded", "deadline-passed", "runtime-broken"):
        assert site.router.unreachable(asked, LinkError(code, "not now")) == "refuse"
