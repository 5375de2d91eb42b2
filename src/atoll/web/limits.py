"""What a key may take of this node: so many requests and tokens in a time, and what its budget has.

Rates are this node's alone and nobody is asked about them. A budget in tokens is paid here, one in money by
the router, since only clouds cost any. What a request may come to is taken before it is asked, and what it
did not come to is given back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, Metric

from atoll.domain.errors import DataError, LinkError
from atoll.router.asked import TOKENS_MAX, weigh_tokens
from atoll.router.budgets.book import Budgets, spent
from atoll.router.budgets.lease import TOKENS, Reservation
from atoll.router.budgets.rates import Bucket
from atoll.router.placing.score import TOKENS_OUT
from atoll.router.policy.cascade import choices
from atoll.router.policy.key import NO_KEYS, Key, Keys, Rate, find_key
from atoll.runtimes.usage import Usage

REQUESTS = "requests"


class Limits:
    """Remembers no more than one bucket of each kind for every key that there is."""

    def __init__(self, budgets: Budgets | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._budgets = budgets
        self._clock = clock
        self._keys: Keys = NO_KEYS
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._refused: Counter[str] = Counter()

    def set_keys(self, keys: Keys) -> None:
        """These are the keys now."""
        self._keys = keys
        for name, kind in [one for one in self._buckets if one[0] not in keys]:
            del self._buckets[name, kind]

    def ticket(self, caller: object) -> Ticket:
        """For one request of whoever this is."""
        key = find_key(self._keys, caller)
        if key is None:
            return Ticket()
        return Ticket(
            key, self._bucket(key, REQUESTS, key.rate), self._bucket(key, TOKENS, key.token_rate), self
        )

    def numbers(self) -> Iterable[Metric]:
        refused = CounterMetricFamily(
            "atoll_key_refusals", "Requests refused for what their key may take.", labels=["limit"]
        )
        for limit, count in self._refused.items():
            refused.add_metric([limit], count)
        yield refused

    def _bucket(self, key: Key, kind: str, rate: Rate | None) -> Bucket | None:
        if rate is None:
            self._buckets.pop((key.name, kind), None)
            return None
        found = self._buckets.setdefault((key.name, kind), Bucket(rate, self._clock))
        if found.rate != rate:
            found.change(rate)
        return found

    async def pay(self, key: Key, tokens: int) -> Reservation | None:
        """Out of the key's budget, where that is one of tokens."""
        budget = self._budgets.find(key.budget) if self._budgets is not None and key.budget else None
        if self._budgets is None or budget is None or budget.unit != TOKENS:
            return None
        found = await self._budgets.reserve(budget.name, tokens)
        if found is None:
            raise spent(budget.name, budget.seconds_left)
        return found

    def refuse(self, key: Key, limit: str, rate: Rate, seconds: float) -> LinkError:
        self._refused[limit] += 1
        error = LinkError(
            "rate-exceeded",
            f'key "{key.name}" has used up its rate of {limit}',
            detail=f"It has {rate.count} every {rate.seconds} s on this node.",
            hint=f"Ask again in {seconds:.1f} s.",
        )
        error.retry_after_seconds = seconds
        return error

    def note_spent(self) -> None:
        self._refused["budget"] += 1


class Ticket:
    """What one request has taken, until it is known what it came to."""

    def __init__(
        self,
        key: Key | None = None,
        requests: Bucket | None = None,
        tokens: Bucket | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._key = key
        self._limits = limits
        self._requests = requests
        self._tokens = tokens
        self._taken = 0
        self._is_kept = False
        self._paid: Reservation | None = None
        self._tokens_in = 0
        self._usage: Usage | None = None

    def headers(self) -> dict[str, str]:
        """As clients of OpenAI's API know them."""
        if self._key is None:
            return {}
        return {**_told(REQUESTS, self._requests), **_told(TOKENS, self._tokens)}

    async def take(self, body: Mapping[str, Any], answers: bool = True) -> None:
        """All that the request may come to, or nothing. `answers`: it is answered in tokens, too."""
        key, limits = self._key, self._limits
        if key is None or limits is None:
            return
        most = 0
        if self._tokens is not None or key.budget is not None:
            most = self._weigh(key, body, answers)
        for limit, bucket, amount in ((REQUESTS, self._requests, 1), (TOKENS, self._tokens, most)):
            if bucket is not None and (seconds := bucket.seconds_until(amount)) > 0:
                raise limits.refuse(key, limit, bucket.rate, seconds)
        if self._requests is not None:
            self._requests.take(1)
        if self._tokens is not None:
            self._taken = self._tokens.take(most)
        if key.budget is not None:
            try:
                self._paid = await limits.pay(key, most)
            except BaseException:
                limits.note_spent()
                self.settle(0)
                raise

    def hear(self, block: bytes) -> None:
        """A part of the answer."""
        if self._usage is not None:
            self._usage.hear(block)

    def hearing(self, take: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
        """The same function, and what it is given is heard, where that counts."""
        usage = self._usage
        if usage is None:
            return take

        def hand_on(block: bytes) -> bool:
            usage.hear(block)
            return take(block)

        return hand_on

    def keep(self) -> None:
        """It is answered later, and counts as the most that it may come to."""
        self._is_kept = True

    def settle(self, tokens: int | None = None) -> None:
        """So many were used; not told, what was heard says it, and nothing heard is nothing used."""
        if self._is_kept:
            return
        if tokens is None:
            usage = self._usage
            tokens = usage.tokens(self._tokens_in) if usage is not None and usage.has_begun else 0
        if self._tokens is not None:
            self._tokens.give_back(self._taken - tokens)
        if self._paid is not None:
            self._paid.settle(tokens)
        self._taken = tokens

    def _weigh(self, key: Key, body: Mapping[str, Any], answers: bool) -> int:
        weight = weigh_tokens(body)
        out = 0
        if answers:
            out = TOKENS_OUT if weight.out is None else weight.out
            self._usage = Usage(choices(body))
        self._tokens_in = weight.most_in
        rate = key.token_rate
        if rate is not None and weight.least_in + (weight.out or 0) > rate.count:
            raise DataError(
                "request-over-rate",
                f'the request may take more tokens than key "{key.name}" ever has at once',
                detail=f"It has {rate.count} every {rate.seconds} s on this node.",
                hint="Ask for less: say max_tokens, or a smaller one.",
            )
        return min(weight.most_in + out, TOKENS_MAX)


FREE = Ticket()


def _told(kind: str, bucket: Bucket | None) -> dict[str, str]:
    if bucket is None:
        return {}
    head = "x-ratelimit"
    return {
        f"{head}-limit-{kind}": str(bucket.rate.count),
        f"{head}-remaining-{kind}": str(bucket.left),
        f"{head}-reset-{kind}": told_seconds(bucket.seconds_until_full),
    }


def told_seconds(seconds: float) -> str:
    """As those clients read it: 1h2m3s, 6m0s, 1.5s, 20ms."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    hours, rest = divmod(seconds, 3600)
    minutes, rest = divmod(rest, 60)
    last = f"{rest:.3f}".rstrip("0").rstrip(".")
    return (f"{hours:.0f}h" if hours else "") + (f"{minutes:.0f}m" if hours or minutes else "") + f"{last}s"
