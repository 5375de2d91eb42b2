"""What a key may take: rates that fill evenly, what is given back, and rows that make no sense."""

from __future__ import annotations

import random
from typing import Any

import pytest

from atoll.domain.errors import DataError, LinkError
from atoll.router.budgets.rates import Bucket
from atoll.router.policy.key import Key, Rate, find_key, from_row
from atoll.runtimes.usage import Usage
from atoll.web.limits import FREE, Limits, told_seconds

ROW: dict[str, Any] = {
    "name": "till",
    "may_read": True,
    "rate": "2/min",
    "token_rate": None,
    "budget": None,
    "scope": "region:eu",
    "tables": ["public.stock", "note"],
}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x" * 300}], "max_tokens": 100}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limits_of(clock: Clock, **changed: Any) -> Limits:
    made = Limits(clock=clock)
    made.set_keys({"till": from_row(ROW | changed)})
    return made


def test_never_more_is_taken_than_a_period_brings_and_one_more(clock: Clock) -> None:
    """Over any stretch of time: what waited at its begin, and what came meanwhile."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    rate = Rate(60, 60)
    bucket, taken = Bucket(rate, clock), list[tuple[float, int]]()
    for _ in range(2000):
        clock.now += chance.choice([0, 0, 0.1, 1, 20])
        amount = chance.randint(1, 10)
        if bucket.seconds_until(amount) == 0:
            taken.append((clock.now, bucket.take(amount)))
        else:
            clock.now += bucket.seconds_until(amount)
            assert bucket.seconds_until(amount) < 1e-6, "that was how long to wait"
    for at, _ in taken[::50]:
        within = sum(amount for when, amount in taken if at <= when < at + 60)
        assert within <= 2 * rate.count + 1e-6


def test_what_was_not_used_comes_back_and_what_was_too_much_is_owed(clock: Clock) -> None:
    bucket = Bucket(Rate(100, 100), clock)
    bucket.take(80)
    bucket.give_back(50)
    assert bucket.left == 70
    bucket.give_back(500)
    assert bucket.left == 100, "no more than there may be"
    bucket.take(100)
    bucket.give_back(-30)
    assert (bucket.left, bucket.seconds_until(1)) == (0, pytest.approx(31))
    clock.now += 31
    assert bucket.seconds_until(1) == pytest.approx(0)


def test_a_rate_that_is_changed_holds_at_once_and_forgives_nothing(clock: Clock) -> None:
    bucket = Bucket(Rate(100, 100), clock)
    bucket.change(Rate(10, 100))
    assert bucket.left == 10
    bucket.take(10)
    bucket.change(Rate(1000, 100))
    assert bucket.left == 0
    clock.now += 1
    assert bucket.left == 10


async def test_a_request_above_the_rate_says_when_to_come_again(clock: Clock) -> None:
    limits = limits_of(clock)
    for left in ("1", "0"):
        ticket = limits.ticket("till")
        await ticket.take(CHAT)
        assert ticket.headers()["x-ratelimit-remaining-requests"] == left
    with pytest.raises(LinkError, match="rate of requests") as refused:
        await limits.ticket("till").take(CHAT)
    assert refused.value.code == "rate-exceeded"
    assert refused.value.retry_after_seconds == pytest.approx(30)
    assert limits.ticket("till").headers() == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1m0s",
    }
    clock.now += 30
    await limits.ticket("till").take(CHAT)


async def test_tokens_are_taken_before_and_given_back_after(clock: Clock) -> None:
    limits = limits_of(clock, rate=None, token_rate="300/min")
    ticket = limits.ticket("till")
    await ticket.take(CHAT)
    assert ticket.headers()["x-ratelimit-remaining-tokens"] == "98", "102 asked, 100 that may come"
    with pytest.raises(LinkError, match="rate of tokens"):
        await limits.ticket("till").take(CHAT)
    ticket.hear(b'data: {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 10}}\n\n')
    ticket.settle()
    assert ticket.headers()["x-ratelimit-remaining-tokens"] == "250"
    ticket.settle()
    assert ticket.headers()["x-ratelimit-remaining-tokens"] == "250", "once"
    refused = limits.ticket("till")
    await refused.take(CHAT)
    refused.settle()
    assert refused.headers()["x-ratelimit-remaining-tokens"] == "250", "nothing came of it"


async def test_what_is_more_than_ever_comes_is_refused_for_good(clock: Clock) -> None:
    limits = limits_of(clock, rate=None, token_rate="300/min")
    with pytest.raises(DataError) as refused:
        await limits.ticket("till").take(CHAT | {"max_tokens": 301})
    assert refused.value.code == "request-over-rate"
    await limits.ticket("till").take(CHAT | {"max_tokens": 250}), "as much as there is"


async def test_who_has_no_limits_is_not_counted_and_keys_that_are_gone_are_forgotten(clock: Clock) -> None:
    limits = limits_of(clock)
    for caller in (None, "role app", "another"):
        ticket = limits.ticket(caller)
        await ticket.take(CHAT)
        assert ticket.headers() == FREE.headers() == {}
    for _ in range(2):
        await limits.ticket("till").take(CHAT)
    limits.set_keys({})
    limits.set_keys({"till": from_row(ROW)})
    assert limits.ticket("till").headers()["x-ratelimit-remaining-requests"] == "2"
    limits.set_keys({"till": from_row(ROW | {"rate": None})})
    assert limits.ticket("till").headers() == {}


@pytest.mark.parametrize(
    "changed",
    [{"rate": "60"}, {"rate": "0/s"}, {"token_rate": "1/week"}, {"rate": 7}, {"scope": "eu"}, {"budget": 1}],
)
def test_a_key_that_makes_no_sense_is_good_for_nothing(changed: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        find_key({"till": from_row(ROW | changed)}, "till")
    assert refused.value.code == "key-malformed"


def test_a_key_reads_its_tables_and_none_that_is_written_otherwise() -> None:
    key = from_row(ROW)
    assert isinstance(key, Key)
    assert [key.reads(name) for name in ("stock", "public.stock", "note")] == [True] * 3
    assert [key.reads(name) for name in ("till", '"stock"', "STOCK", "other.stock")] == [False] * 4
    assert not Key("shy").reads("stock")
    assert Key("free", may_read=True).reads("stock")


@pytest.mark.parametrize(
    ("events", "tokens"),
    [
        ([b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'] * 3, 7 + 3),
        (
            [
                b'data: {"usage": null}\n\n',
                b'data: {"timings": {"prompt_n": 3, "cache_n": 4, "predicted_n": 9}}\n\n',
            ],
            16,
        ),
        ([b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}\n\n'] * 2, 6),
        (
            [
                b'data: {"message": {"usage": {"input_tokens": 5, "output_tokens": 0}}}\n\n',
                b'data: {"usage": {"output_tokens": 8}}\n\n',
            ],
            13,
        ),
        ([b'data: {"response": {"usage": {"input_tokens": 5, "output_tokens": 2}}}\n\n'], 7),
        ([b'data: {"usage": {"prompt_tokens": "many", "completion_tokens": -1}}\n\n'], 7 + 1),
    ],
)
def test_tokens_are_what_the_events_say_they_are(events: list[bytes], tokens: int) -> None:
    one_by_one, at_once = Usage(), Usage()
    for event in events:
        one_by_one.hear(event)
    at_once.hear(b"".join(events))
    assert one_by_one.tokens(7) == at_once.tokens(7) == tokens


def test_of_several_choices_each_says_its_own() -> None:
    usage = Usage(choices=2)
    for _ in range(2):
        usage.hear(b'data: {"usage": {"prompt_tokens": 5, "completion_tokens": 4}}\n\n')
    assert usage.tokens(0) == 13


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0ms"),
        (0.02, "20ms"),
        (1.5, "1.5s"),
        (60, "1m0s"),
        (360, "6m0s"),
        (3723, "1h2m3s"),
        (7200, "2h0m0s"),
    ],
)
def test_times_are_told_as_clients_read_them(seconds: float, told: str) -> None:
    assert told_seconds(seconds) == told
