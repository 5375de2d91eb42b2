"""Routes that are cascades: the same rules for whoever is asked then, one deadline and one cap for both."""

from __future__ import annotations

from typing import Any

import pytest

from atoll.domain.errors import DataError, LinkError, PolicyDenied
from atoll.domain.models import Skill
from atoll.router.asked import Asked, Hints
from atoll.router.placing.score import cost
from support.fix_routing import CHAT, TERMS, Site, offered

MEAN = {"first": "own", "measure": "mean_logprob", "threshold": 0.7}
OWN_FIRST: dict[str, Any] = {
    "models": {"here": ["own"], "cloud": ["one"]},
    "prefer": ["here", "cloud"],
    "options": {"cascade": MEAN},
}
CLOUDS: dict[str, Any] = {
    "models": {"cloud": ["one", "two"]},
    "prefer": ["cloud"],
    "options": {"cascade": MEAN | {"first": "one"}},
}


async def test_what_is_not_known_to_be_sure_goes_on_and_the_decision_says_why(site: Site) -> None:
    site.route(**OWN_FIRST)
    said, trip = await site.say()
    assert said == "one one one"
    assert trip.header == f"cloud:one; route=ask; cascade=then; confidence=unknown; id={trip.id}"
    told = trip.told()
    assert [one["place"] for one in told["tries"]] == ["here", "cloud:one"]
    assert [(one["place"], one["turn"]) for one in told["places"]] == [
        ("here", "first"),
        ("cloud:one", "then"),
    ]
    assert told["cascade"] == MEAN | {"confidence": None, "went_on": True, "why": "not known"}
    assert site.router.decision(trip.id) == told
    assert dict(site.router._records.answers) == {("ask", "cloud", "answered"): 1}, "it is one request"


async def test_a_server_that_takes_no_logprobs_is_not_measured_and_that_is_said(site: Site) -> None:
    site.route(**CLOUDS)
    site.one.mood = "plain"
    said, trip = await site.say()
    assert said == "two two two"
    told = trip.told()["cascade"]
    assert (told["went_on"], told["why"]) == (True, "not known, as one takes no logprobs")
    site.two.mood = 500
    assert (await site.say())[0] == "one one one", "and what it says without is there if nobody else is"
    site.one.mood = 400
    with pytest.raises(DataError, match="cannot answer"):
        await site.say()


async def test_a_sure_first_model_is_the_only_one_that_is_asked(site: Site) -> None:
    site.route(**OWN_FIRST | {"options": {"cascade": MEAN | {"measure": "agreement", "samples": 4}}})
    said, trip = await site.say()
    assert said == "said here"
    assert trip.header == f"here; route=ask; cascade=first; confidence=1.000; id={trip.id}"
    assert [one["place"] for one in trip.tries] == ["here"] * 4
    assert site.one.asks == []


@pytest.mark.parametrize(
    "asked",
    [
        {"scopes": frozenset({"local"})},
        {"scopes": frozenset({"node:1"})},
        {"scopes": frozenset({"region:eu", "local"})},
        {"label": "patient"},
        {"hints": Hints(only=("here",))},
        {"hints": Hints(ignore=("cloud",))},
        {"hints": Hints(places=("here",))},
    ],
)
async def test_nothing_goes_on_to_where_it_may_not_go(site: Site, asked: dict[str, Any]) -> None:
    site.route(**OWN_FIRST)
    for mood in ("fine", 500):
        site.one.mood = mood
        said, trip = await site.say(**asked)
        assert (said, trip.end) == ("said here", "answered")
        assert "may not go on: cloud:one: " in trip.told()["cascade"]["why"]
    with pytest.raises(PolicyDenied, match="nowhere"):
        await site.say(**asked | {"scopes": frozenset({"a scope of tomorrow"})})
    assert site.one.asks == []


async def test_a_scope_holds_for_a_peer_that_has_the_larger_model(site: Site) -> None:
    from atoll.runtimes.echo import EchoRuntime

    large = EchoRuntime(name="large")
    await large.start()
    site.peers.nodes[2] = offered(2, "reef", "large", region="us", node_region="us"), large
    site.route(
        models={"here": ["own"], "peer": ["large"]}, prefer=["here", "peer"], options={"cascade": MEAN}
    )
    _, trip = await site.say(scopes=frozenset({"region:eu"}))
    assert trip.header.startswith("here; route=ask; cascade=first; confidence=unknown")
    assert site.peers.asked == []
    _, trip = await site.say(scopes=frozenset({"global"}))
    assert trip.header.startswith("reef; route=ask; cascade=then")
    ((node, scopes, seconds),) = site.peers.asked
    assert (node, scopes) == (2, {"global"})
    assert seconds is not None
    assert seconds <= 30, "the larger model has what is left of the time"
    await large.stop()


async def test_both_models_are_paid_from_one_cap(site: Site) -> None:
    site.route(**CLOUDS)
    price = TERMS.price.of(Asked("ask", CHAT, Skill.GENERATE).tokens_in, 100) if TERMS.price else 0.0
    assert price > 0
    said, trip = await site.say(tokens_out=100, max_cost=1.5 * price)
    assert said == "one one one"
    assert "cloud:two: it may cost more than" in trip.told()["cascade"]["why"]
    assert (await site.say(tokens_out=100, max_cost=2.5 * price))[0] == "two two two"
    assert (len(site.one.asks), len(site.two.asks)) == (2, 1)
    assert cost(trip.decision.asked, trip.decision.order[0]) == price


async def test_a_slow_first_model_leaves_half_of_the_time_to_the_others(site: Site) -> None:
    site.route(**CLOUDS | {"deadline_seconds": 4})
    site.one.mood = "mute"
    said, trip = await site.say()
    assert said == "two two two"
    assert trip.told()["cascade"]["confidence"] is None
    with pytest.raises(LinkError) as late:
        await site.say(hints=Hints(ignore=("cloud:two",)), deadline_seconds=0.5)
    assert late.value.code == "deadline-passed"
    assert "0.5 seconds" in late.value.message
    site.two.mood = "mute"
    with pytest.raises(LinkError) as both:
        await site.say(deadline_seconds=0.5)
    assert both.value.code in ("deadline-passed", "no-place", "runtime-slow")
    await site.quiet()


async def test_where_one_of_the_two_cannot_the_other_answers(site: Site) -> None:
    site.route(**CLOUDS)
    for mood in (500, "short"):
        site.one.mood = mood
        assert (await site.say())[0] == "two two two"
    site.one.mood, site.two.mood = "fine", 500
    said, trip = await site.say()
    assert (said, trip.end) == ("one one one", "answered")
    assert "but the larger model: " in trip.told()["cascade"]["why"]
    site.one.mood = 500
    with pytest.raises(LinkError) as refused:
        await site.say()
    assert refused.value.code in ("no-place", "runtime-broken")


async def test_over_http_a_stream_has_no_word_that_is_taken_back(site: Site) -> None:
    site.route(**OWN_FIRST)
    status, headers, content = await site.post()
    assert (status, content["choices"][0]["message"]["content"].strip()) == (200, "one one one")
    assert headers["x-atoll-decision"].startswith("cloud:one; route=ask; cascade=then")
    assert content["model"] == "ask"


async def test_vectors_and_tensors_are_refused_where_the_measure_is_one_of_words(site: Site) -> None:
    site.route(**OWN_FIRST)
    with pytest.raises(DataError) as vectors:
        site.router.embed(Asked("ask", "/v1/embeddings", Skill.EMBED), ["a"])
    with pytest.raises(DataError) as tensors:
        site.router.infer(Asked("ask", "/v2", Skill.INFER), {})
    assert vectors.value.code == tensors.value.code == "cascade-malformed"
