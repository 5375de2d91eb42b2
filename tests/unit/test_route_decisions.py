"""Who may answer a request, and who is best: the rules, on places and requests of every sort."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.router.asked import Asked, Hints, read_asked
from atoll.router.place import FREE, Feel, Kind, Need, Place, Price
from atoll.router.placing import breaker
from atoll.router.placing.breaker import Breaker
from atoll.router.placing.course import Course
from atoll.router.placing.decide import decide
from atoll.router.placing.eligible import why_not
from atoll.router.placing.feel import FORGOTTEN_SECONDS, PLACES_MAX, Feels
from atoll.router.placing.score import expected_seconds
from atoll.router.policy.route import Route, from_row
from atoll.router.prefix import MARKS_MAX, REQUESTS_MAX, Warmth, read_marks, share_read

CHAT = "/v1/chat/completions"
SCOPES = ("local", "global", "node:1", "node:2", "region:eu", "region:us", "region:", "eu", "")
MODELS = dict.fromkeys(Kind, ("m",))
ROUTE = Route("r", MODELS, tuple(Kind))


def place(kind: Kind = Kind.HERE, **more: Any) -> Place:
    usual: dict[str, Any] = {"node": 1 if kind is Kind.HERE else 2, "name": str(kind), "region": "eu"}
    known = {**usual, "version": "1", "variant": "f16", "skills": frozenset(Skill), "needs": frozenset(Need)}
    return Place(kind, **{"model": "m", **known, **more})


def asked(**more: Any) -> Asked:
    return Asked("r", CHAT, Skill.GENERATE, **more)


@st.composite
def places(draw: st.DrawFn) -> Place:
    kind = draw(st.sampled_from(Kind))
    price = draw(st.sampled_from([None, Price(0.5, 2.0), FREE])) if kind is Kind.CLOUD else FREE
    return place(
        kind,
        node=1 if kind is Kind.HERE else draw(st.sampled_from([1, 2, 3])),
        name="here" if kind is Kind.HERE else draw(st.sampled_from(["reef", "jade", "gpt"])),
        region=draw(st.sampled_from(["eu", "us", None]))
        if kind is Kind.CLOUD
        else draw(st.sampled_from(["eu", "us"])),
        passing=draw(st.sampled_from([None, "?", "eu"])) if kind is Kind.CLOUD else None,
        price=price,
        model=draw(st.sampled_from(["m", "m", "n"])),
        skills=draw(st.frozensets(st.sampled_from(Skill), min_size=1)),
        needs=draw(st.frozensets(st.sampled_from(Need))),
        context_tokens=draw(st.sampled_from([None, 10, 4096])),
        is_up=draw(st.booleans()),
    )


names = st.sampled_from(["here", "peer", "hub", "cloud", "reef", "jade", "gpt", "cloud:gpt"])
words = st.lists(names, max_size=3).map(tuple)
hints = st.builds(
    Hints,
    order=words,
    only=st.none() | words,
    ignore=words,
    places=st.none() | words,
    allow_fallbacks=st.booleans(),
    max_price=st.none() | st.just(Price(1.0, 1.0)),
    sort=st.sampled_from([None, "price", "latency", "throughput"]),
)
requests = st.builds(
    asked,
    needs=st.frozensets(st.sampled_from(Need)),
    bytes_in=st.integers(0, 100_000),
    tokens_out=st.none() | st.integers(1, 5000),
    scopes=st.frozensets(st.sampled_from(SCOPES), max_size=3),
    label=st.sampled_from([None, "patient", "open", "unknown"]),
    caller=st.sampled_from([None, "till"]),
    hints=hints,
    max_cost=st.none() | st.floats(0, 1),
)
routes = st.builds(
    Route,
    name=st.just("r"),
    models=st.fixed_dictionaries({}, optional=dict.fromkeys(Kind, st.just(("m",)))),
    prefer=st.lists(names, min_size=1, max_size=4).map(tuple),
    max_cost=st.none() | st.floats(0, 1),
    labels=st.just({"patient": "local", "open": "global"}),
    keys=st.sampled_from([(), ("till",)]),
)


@settings(max_examples=150, deadline=None)
@given(requests, routes, places())
def test_what_may_not_leave_stays_whatever_else_is_said(request: Asked, route: Route, where: Place) -> None:
    """The rule, written once more in other words: what comes out of why_not has to keep to it."""
    if why_not(request, route, where):
        return
    scopes = set(request.scopes) | ({route.labels[request.label]} if request.label else set())
    assert "" not in scopes
    assert "eu" not in scopes
    if where.kind is Kind.CLOUD:
        assert any(word == "cloud" or word == f"cloud:{where.name}" for word in route.prefer)
        assert where.region is not None
        assert where.price is not None
        assert all(scope in ("global", f"region:{where.region}") for scope in scopes)
    else:
        assert {str(where.kind), where.name} & set(route.prefer)
        assert all(s in ("global", "local", f"node:{where.node}", f"region:{where.region}") for s in scopes)
        assert "local" not in scopes or where.kind is Kind.HERE
    assert where.model in route.models[where.kind]
    assert request.skill in where.skills
    assert request.needs <= where.needs
    assert where.is_up
    assert not route.keys or request.caller in route.keys


@settings(max_examples=40, deadline=None)
@given(requests, routes, st.lists(places(), max_size=6))
def test_hints_only_narrow(request: Asked, route: Route, found: list[Place]) -> None:
    bare = request._replace(hints=Hints(), max_cost=None)
    may = decide(bare, route, found).order
    assert all(one in may for one in decide(request, route, found).order)


@settings(max_examples=30, deadline=None)
@given(requests, routes, st.lists(places(), max_size=6))
def test_a_decision_names_every_place_once_and_can_be_told(
    request: Asked, route: Route, found: list[Place]
) -> None:
    decision = decide(request, route, found)
    assert len(decision.order) + len(decision.out) == len(found)
    assert all(verdict.all for _, verdict in decision.out)
    json.dumps(decision.told())


def test_the_routes_preference_counts_before_speed_and_hints_before_neither() -> None:
    slow = place(Kind.HERE, name="here", feel=Feel(1.0, 3, 5.0, 50.0))
    quick = place(Kind.HUB, name="reef", feel=Feel(0.01, 0, 500.0, 5000.0))
    quicker = place(Kind.HUB, name="jade", node=3, feel=Feel(0.001, 0, 900.0, 9000.0))
    route = replace(ROUTE, prefer=("here", "hub"))
    assert [one.name for one in decide(asked(), route, [quick, quicker, slow]).order] == [
        "here",
        "jade",
        "reef",
    ]
    ordered = asked(hints=Hints(order=("reef", "here")))
    assert [one.name for one in decide(ordered, route, [quick, quicker, slow]).order] == [
        "here",
        "reef",
        "jade",
    ]


def test_what_is_no_text_is_expected_when_it_came_the_last_times() -> None:
    request = asked()._replace(skill=Skill.INFER)
    new = place(Kind.PEER, name="jade", feel=Feel(0.02))
    slow = place(Kind.PEER, name="reef", feel=Feel(0.02, 0, first_seconds=0.3))
    quick = place(Kind.PEER, name="cove", feel=Feel(0.04, 4, first_seconds=0.005))
    assert [round(expected_seconds(request, one), 3) for one in (new, slow, quick)] == [1.02, 0.32, 0.05]


def test_a_place_of_which_nothing_is_known_counts_as_slow_and_is_there() -> None:
    known, unknown = (
        place(Kind.HUB, name="reef", feel=Feel(0.1, 0, 50.0, 500.0)),
        place(Kind.HUB, name="jade"),
    )
    assert [one.name for one in decide(asked(), ROUTE, [unknown, known]).order] == ["reef", "jade"]
    assert expected_seconds(asked(bytes_in=300), unknown) > expected_seconds(asked(bytes_in=300), known)


def test_without_a_bound_on_the_answer_a_cost_has_none() -> None:
    cloud = place(Kind.CLOUD, price=Price(1.0, 10.0))
    capped = asked(max_cost=0.01)
    assert why_not(capped, ROUTE, cloud) == ("without max_tokens nobody knows what it would cost",)
    assert why_not(capped._replace(tokens_out=500), ROUTE, cloud) == ()
    assert "may cost more" in why_not(capped._replace(tokens_out=5000), ROUTE, cloud)[0]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"provider": []}, {}),
        ({"provider": {"data_collection": "deny"}}, {}),
        ({"provider": {"only": "here"}}, {}),
        ({"provider": {"only": ["x"] * 33}}, {}),
        ({"provider": {"sort": "random"}}, {}),
        ({"provider": {"allow_fallbacks": "no"}}, {}),
        ({"provider": {"max_price": {"request": 1}}}, {}),
        ({}, {"x-atoll-deadline": "soon"}),
        ({}, {"x-atoll-deadline": "-1"}),
        ({}, {"x-atoll-max-cost": "nan"}),
        ({}, {"x-atoll-max-cost": "inf"}),
    ],
)
def test_a_hint_that_cannot_be_honoured_is_refused(body: dict[str, Any], headers: dict[str, str]) -> None:
    with pytest.raises(DataError) as refused:
        read_asked(CHAT, Skill.GENERATE, "r", body, headers)
    assert refused.value.code == "hint-malformed"
    said = f"{refused.value.detail} {refused.value.hint}"
    assert all(name in said for name in headers or ("provider",)), "it names what is to be mended"


def test_what_a_request_needs_is_read_from_it() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:" + "x" * 90_000}}
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a" * 300}, image]}],
        "tools": [{}],
        "response_format": {"type": "json_schema"},
        "logprobs": True,
        "max_tokens": 7,
        "n": 2,
        "provider": {"only": ["here"], "max_price": {"prompt": 1}},
    }
    found = read_asked(CHAT, Skill.GENERATE, "r", body, {"x-atoll-place": "here, reef"})
    assert found.needs == frozenset(Need)
    assert (found.tokens_out, found.images) == (14, 1)
    assert 300 <= found.bytes_in < 400, "what is no text is not counted as text"
    assert (found.hints.only, found.hints.places) == (("here",), ("here", "reef"))


ROW: dict[str, Any] = {
    "name": "r",
    "models": {"here": ["m"]},
    "prefer": ["here"],
    "deadline_seconds": 5,
    "first_token_seconds": None,
    "max_cost": None,
    "labels": {"patient": "local"},
    "hedge_after_seconds": None,
    "options": {"keys": ["till"]},
}


def test_a_row_becomes_a_route() -> None:
    route = from_row(ROW)
    assert (route.deadline_seconds, route.keys, route.labels) == (5.0, ("till",), {"patient": "local"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": {"moon": ["m"]}},
        {"models": {"here": "m", "peer": [1]}},
        {"models": []},
        {"options": {"cascade": []}},
        {"options": {"cascade": {"first": "m", "measure": "score", "threshold": 2}}},
        {"options": {"cascade": {"first": "none of its models", "measure": "score", "threshold": 0.5}}},
        {"prefer": []},
        {"prefer": ["x"] * 33},
        {"labels": {"patient": "everywhere"}},
        {"labels": {"patient": 1}},
        {"deadline_seconds": -1},
        {"deadline_seconds": "5"},
        {"max_cost": float("nan")},
        {"options": {"keys": "till"}},
        {"options": None},
    ],
)
def test_a_row_that_makes_no_sense_is_no_route(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        from_row(ROW | wrong)
    assert refused.value.code == "route-malformed"


def test_a_breaker_opens_lets_one_try_and_closes() -> None:
    now, one = 0.0, Breaker()
    for _ in range(breaker.FAILURES_MAX):
        assert one.lets_in(now)
        one = one.begun(now).failed(now)
    assert not one.lets_in(now)
    now += breaker.PAUSE_SECONDS_FIRST
    assert one.lets_in(now)
    trying = one.begun(now)
    assert not trying.lets_in(now), "one is enough to find out"
    assert trying.left().lets_in(now), "it went away, another may"
    assert trying.lets_in(now + breaker.TRY_SECONDS_MAX), "nobody waits for it for good"
    again = trying.failed(now)
    assert not again.lets_in(now + breaker.PAUSE_SECONDS_FIRST), "twice as long"
    assert again.lets_in(now + 2 * breaker.PAUSE_SECONDS_FIRST)
    assert trying.came().lets_in(now), "it has begun"
    assert not trying.came().failed(now).lets_in(now), "and broke off, as before"
    assert trying.succeeded() == Breaker()


@given(st.lists(st.sampled_from(["failed", "came", "succeeded", "left", "busy", "begun"]), max_size=60))
def test_a_breaker_never_stays_open_for_good(course: list[str]) -> None:
    one, now = Breaker(), 0.0
    for step in course:
        now += 1.0
        more = {"failed": (now,), "begun": (now,), "busy": (now, 9999.0)}.get(step, ())
        one = getattr(one, step)(*more)
        assert 0.0 <= one.seconds_left(now) <= breaker.PAUSE_SECONDS_MAX
        assert one.lets_in(now + one.seconds_left(now))


def test_what_was_measured_is_bounded_and_forgotten() -> None:
    feels = Feels()
    for number in range(PLACES_MAX + 50):
        feels.began(number, 0.0, 0.5, 100, 0.1)
    assert len(feels) == PLACES_MAX
    last = PLACES_MAX + 49
    said = Feel(0.1, 2, 20.0, warm=frozenset({7}))
    assert feels.of(last, 1.0, said) == Feel(0.1, 2, 20.0, 250.0, 0.4, frozenset({7}))
    feels.ended(last, 1.0, 100, 2.0)
    assert feels.of(last, 1.0, said).tokens_per_second == 50.0
    assert feels.of(last, 2 + FORGOTTEN_SECONDS, said) == said
    feels.began("far", 0.0, 0.4, 100, None)
    assert feels.of("far", 1.0, Feel()).round_trip_seconds == 0.4


def talk(*texts: str) -> tuple[tuple[int, int], ...]:
    roles = ("system", "user", "assistant")
    messages = [{"role": roles[number % 3], "content": text} for number, text in enumerate(texts)]
    return read_marks({"messages": messages})


def test_requests_share_a_beginning_as_far_as_every_word_is_the_same() -> None:
    one, more = talk("Rules" * 50, "Hm?"), talk("Rules" * 50, "Hm?", "Yes.", "And?")
    warm = frozenset(mark for mark, _ in one)
    assert share_read(one, warm) == 1.0
    assert 0.8 < share_read(more, warm) < 1.0
    assert share_read(talk("rules" * 50, "Hm?"), warm) == 0.0
    assert share_read(read_marks({"messages": "?"}), warm) == share_read((), warm) == 0.0
    tools = read_marks({"messages": [{"role": "user", "content": "Hm?"}], "tools": [{"type": "function"}]})
    assert tools != read_marks({"messages": [{"role": "user", "content": "Hm?"}]})
    assert len(talk(*"x" * 100)) == MARKS_MAX


def test_where_its_beginning_was_read_a_request_is_expected_to_be_sooner() -> None:
    warmth = Warmth()
    for number in range(REQUESTS_MAX + 3):
        warmth.read("reef", talk(f"rules {number}", "Hm?"), 0.0)
    warmth.read("reef", talk("rules 10", "Hm?", "Yes", "And?"), 1.0)
    held = warmth.of("reef", 2.0)
    shares = [share_read(talk(f"rules {number}", "Hm?"), held) for number in (0, 2, 3, 10)]
    assert shares == [0.0, 0.0, 1.0, 1.0]
    assert not warmth.of("jade", 2.0)
    assert not warmth.of("reef", 3 + FORGOTTEN_SECONDS), "an engine does not keep it for ever"
    long = asked(bytes_in=3000, marks=talk("rules 10", "Hm?"))
    one, other = (place(Kind.PEER, name=name, feel=Feel(0.0, 0, 50.0, 100.0)) for name in ("jade", "reef"))
    warm = other._replace(feel=other.feel._replace(warm=held))
    assert expected_seconds(long, warm) < expected_seconds(long, one) - 5
    assert decide(long, ROUTE, [one, warm]).order[0].name == "reef"


def test_what_a_place_need_not_read_says_nothing_of_how_fast_it_reads() -> None:
    now = 0.0
    course = Course(lambda node: 0.0, lambda: now)
    here, marks = place(), talk("rules" * 100, "Hm?")
    course.came(here, 2.0, 1000, marks)
    measured = course.known(here).feel.prefill_tokens_per_second
    assert measured == 500
    course.came(here, 0.01, 1000, marks)
    assert course.known(here).feel.prefill_tokens_per_second == measured
