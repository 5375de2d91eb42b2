"""Answers that are given again: which requests are the same, how alike questions have to be, what is held."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.router.answers.alike import GRID, Pair, choose, lines
from atoll.router.answers.memory import ANSWERS_MAX, Answer, Memory, are_alike
from atoll.router.answers.wording import Quoted, Wording, read_wording
from atoll.router.asked import Asked, read_asked
from atoll.router.place import Kind
from atoll.router.policy.again import Policy, parse
from atoll.router.policy.route import Route

CHAT = "/v1/chat/completions"
ROUTE = Route("ask", dict.fromkeys(Kind, ("m",)))
ALIKE = Policy(encoder="e", threshold=0.9)
BODY: dict[str, Any] = {
    "model": "ask",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "When is a refund paid?"},
    ],
    "temperature": 0.5,
}


def wording(
    policy: Policy = ALIKE, quoted: Quoted | None = None, path: str = CHAT, **changed: Any
) -> Wording:
    asked = Asked("ask", path, Skill.GENERATE)._replace(**changed.pop("asked", {}))
    body = {name: value for name, value in {**BODY, **changed}.items() if value is not None}
    return read_wording(asked, changed.pop("route", ROUTE), policy, body, quoted)


def said(text: str) -> list[dict[str, Any]]:
    return [BODY["messages"][0], {"role": "user", "content": text}]


@pytest.mark.parametrize(
    "change",
    [
        {"messages": said("When is a refund due?")},
        {"messages": [BODY["messages"][1]]},
        {"temperature": 0.6},
        {"temperature": None},
        {"seed": 1},
        {"max_tokens": 5},
        {"tools": [{"type": "function", "function": {"name": "look"}}]},
        {"response_format": {"type": "json_object"}},
        {"something_new": 1},
        {"stream": True},
        {"asked": {"scopes": frozenset({"region:eu"})}},
        {"asked": {"label": "patient"}},
        {"path": "/v1/messages"},
    ],
)
def test_whatever_may_change_an_answer_makes_another_request(change: dict[str, Any]) -> None:
    assert wording(**change).whole != wording().whole


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other name of the route"},
        {"user": "somebody"},
        {"provider": {"sort": "price"}},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"asked": {"caller": "till"}},
        {"asked": {"deadline_seconds": 3.0}},
    ],
)
def test_who_asks_and_how_it_is_sent_do_not(change: dict[str, Any]) -> None:
    assert wording(**change) == wording()


def test_keys_may_be_kept_apart() -> None:
    policy = replace(ALIKE, is_per_key=True)
    assert wording(policy, asked={"caller": "till"}) != wording(policy, asked={"caller": "desk"})


def test_the_question_is_parted_from_what_stands_around_it() -> None:
    one, other = wording(), wording(messages=said("When is it paid?"))
    assert one.around == other.around is not None
    assert (one.question, other.question) == ("When is a refund paid?", "When is it paid?")
    assert wording(temperature=1).around != one.around
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hm"}]}]
    answered = [*BODY["messages"], {"role": "assistant", "content": "Soon"}]
    for messages in ([], parts, said("x" * 2001), said(" "), answered):
        assert wording(messages=messages).question is None
    assert wording(path="/v1/completions", prompt="Hm").question is None
    assert wording(Policy()).question is None


def test_rows_that_were_quoted_are_no_part_of_the_question() -> None:
    rows = Quoted(("note",), "When?")
    one = wording(quoted=rows, messages=said("| a week\n\nWhen?"))
    assert one.question == "When?"
    assert wording(quoted=rows, messages=said("| a month\n\nWhen?")).around != one.around
    assert wording(quoted=rows, messages=said("| a week")).question is None, "it does not stand at the end"


def test_a_caller_may_want_a_new_answer_or_leave_none_behind() -> None:
    def read(header: str) -> tuple[bool, bool]:
        asked = read_asked(CHAT, Skill.GENERATE, "ask", BODY, {"cache-control": header})
        return asked.may_be_old, asked.may_be_held

    assert read("") == read("max-age=3") == (True, True)
    assert read("No-Cache") == read("max-age=0, no-cache") == (False, True)
    assert read("no-store") == (False, False)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("exact", "no object"),
        ({"ttl": 3}, 'no field "ttl"'),
        ({"seconds": 0}, "seconds"),
        ({"seconds": 31 * 86400}, "seconds"),
        ({"seconds": True}, "seconds"),
        ({"encoder": "minilm"}, "needs a threshold"),
        ({"threshold": 0.9}, "needs a threshold"),
        ({"encoder": "", "threshold": 0.9}, "name of a model"),
        ({"encoder": "minilm", "threshold": 1.1}, "threshold"),
        ({"per_key": 1}, "per_key"),
    ],
)
def test_what_a_route_says_of_it_has_to_make_sense(told: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse(told)


def answer(key: str, whole: str = "w", **changed: Any) -> Answer:
    usual = Answer(
        key, whole, "a", f"question {key}", None, "e 1", "ask", "m", "1", "f16", "global", 0.0, 100.0, b"data"
    )
    return replace(usual, **changed)


def every(_: Answer) -> bool:
    return True


def test_the_newest_that_fits_is_given_until_its_time_is_over() -> None:
    now = 0.0
    memory = Memory(clock=lambda: now)
    for key, made_at, model in (("1", 1.0, "m"), ("2", 3.0, "m"), ("3", 2.0, "n")):
        memory.put(answer(key, made_at=made_at, model=model, until=10 + made_at))
    assert memory.exact("w", every) == answer("2", made_at=3.0, until=13.0)
    found = memory.exact("w", lambda one: one.model == "n")
    assert found is not None
    assert found.key == "3"
    assert memory.exact("other", every) is None
    now = 12.5
    found = memory.exact("w", every)
    assert found is not None
    assert found.key == "2"
    assert len(memory) == 1, "what is over is dropped where it is met"
    memory.put(answer("4", until=12.0))
    assert len(memory) == 1
    memory.drop("2")
    memory.drop("2")
    assert (len(memory), memory.size, memory._by_whole, memory._by_around) == (0, 0, {}, {})


def test_memory_is_bounded_and_what_was_used_longest_ago_goes_first() -> None:
    one = answer("0").size
    memory = Memory(bytes_max=3 * one + 10, clock=lambda: 0.0)
    for key in "012":
        memory.put(answer(key, whole=key))
    assert memory.exact("0", every) is not None
    memory.put(answer("3", whole="3"))
    assert [memory.exact(key, every) is not None for key in "0123"] == [True, False, True, True]
    memory.put(answer("4", events=b"x" * 4 * one))
    assert len(memory) == 3, "one that is too large displaces none"
    memory = Memory(clock=lambda: 0.0)
    for number in range(ANSWERS_MAX + 5):
        memory.put(answer(str(number), whole=str(number), around=None))
    assert len(memory) == ANSWERS_MAX


def vector(*values: float) -> Any:
    found = np.array(values, np.float32)
    return found / np.linalg.norm(found)


def test_the_most_alike_is_given_if_it_is_alike_enough() -> None:
    memory = Memory(clock=lambda: 0.0)
    for key, given in (
        ("near", vector(1, 0.1, 0)),
        ("nearest", vector(1, 0.05, 0)),
        ("far", vector(0, 1, 0)),
    ):
        memory.put(answer(key, whole=key, question="How long?", vector=given.tobytes()))
    memory.put(
        answer(
            "other maker", whole="x", question="How long?", vector=vector(1, 0, 0).tobytes(), encoder="e 2"
        )
    )
    memory.put(answer("other size", whole="y", question="How long?", vector=vector(1, 0).tobytes()))
    memory.put(
        answer("elsewhere", whole="z", around="b", question="How long?", vector=vector(1, 0, 0).tobytes())
    )

    def near(threshold: float, question: str = "How long is it?", fits: Any = every) -> str | None:
        found = memory.near("a", "e 1", vector(1, 0, 0), question, threshold, fits)
        return None if found is None else found[0].key

    assert near(0.9) == "nearest"
    assert near(0.9999) is None
    assert near(0.9, fits=lambda one: one.key != "nearest") == "near"
    assert near(0.9, "How long is it in 3 days?") is None, "numbers differ"


def test_questions_with_other_numbers_are_never_the_same() -> None:
    assert are_alike("Room 12 at 8:30?", "At 8:30, in room 12?")
    assert not are_alike("Room 12?", "Room 21?")
    assert not are_alike("v1.2", "v1.3")
    assert not are_alike("3 and 3", "3")


def drawn(chance: random.Random, count: int) -> list[Pair]:
    """The more alike, the likelier the same: at a likeness of one surely, at a half never."""
    likeness = [chance.uniform(0.5, 1.0) for _ in range(count)]
    return [Pair(one, chance.random() < min(1.0, (one - 0.5) * 2.5)) for one in likeness]


def true_error(threshold: float) -> float:
    steps = [threshold + (1 - threshold) * (n + 0.5) / 1000 for n in range(1000)]
    return sum(1 - min(1.0, (one - 0.5) * 2.5) for one in steps) / 1000


def test_the_promise_of_few_wrong_answers_is_kept_as_often_as_it_is_said_to_be() -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    chance = random.Random(seed)
    found = [choose(drawn(chance, 400), 0.05, 0.95) for _ in range(200)]
    given = [one for one in found if one is not None]
    assert len(given) > 150
    assert min(given) < 0.95, "it is of use"
    broken = sum(true_error(one) > 0.05 for one in given)
    assert broken <= 22, "5 % are 10; more than 22 are a chance of one in five thousand"


def test_too_few_pairs_or_none_that_are_the_same_give_no_threshold() -> None:
    assert choose([Pair(1.0, True)] * 40, 0.05, 0.95) is None
    assert choose([Pair(1.0, True)] * 60, 0.05, 0.95) == GRID[-1]
    assert choose([Pair(1.0, False)] * 100, 0.05, 0.95) is None
    assert choose([], 0.05, 0.95) is None
    assert [line.share_found for line in lines([Pair(0.9, True), Pair(0.7, True)])][-1] == 1.0
