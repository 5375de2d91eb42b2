"""What measured requests amount to: percentiles and rates. Pure.

Every figure is of whole requests that were answered. A percentile is a value that was measured: the least
that so large a share of all did not exceed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """One request; times are seconds of one clock."""

    began: float
    first: float  # when the first part of the answer came; the end, where it came at once
    ended: float
    items: int = 1  # what came: tokens, rows or texts
    prompt_tokens: int = 0


def percentile(values: Sequence[float], share: float) -> float:
    if not values or not 0 < share <= 1:
        raise ValueError("a percentile is of some values, and a share of them")
    return sorted(values)[math.ceil(share * len(values)) - 1]


def of_requests(timings: Sequence[Timing]) -> dict[str, float]:
    """How many requests and items a second, and how long one took."""
    took = [one.ended - one.began for one in timings]
    span = _span(timings)
    return {
        "requests": len(timings),
        "requests_per_second": len(timings) / span,
        "items_per_second": sum(one.items for one in timings) / span,
        "p50_seconds": percentile(took, 0.5),
        "p99_seconds": percentile(took, 0.99),
    }


def of_language(timings: Sequence[Timing]) -> dict[str, float]:
    """How soon an answer begins, how fast a prompt is read, and how fast text is written.

    A caller's speed is that after its first token; that of all callers together includes their waiting.
    """
    waits = [one.first - one.began for one in timings]
    speeds = [(one.items - 1) / (one.ended - one.first) for one in timings if one.items > 1]
    reading = [one.prompt_tokens / (one.first - one.began) for one in timings]
    return {
        "requests": len(timings),
        "first_token_p50_seconds": percentile(waits, 0.5),
        "first_token_p99_seconds": percentile(waits, 0.99),
        "prompt_tokens_per_second": percentile(reading, 0.5),
        "tokens_per_second": percentile(speeds, 0.5) if speeds else 0.0,
        "all_tokens_per_second": sum(one.items for one in timings) / _span(timings),
        "tokens": sum(one.items for one in timings),
    }


def _span(timings: Sequence[Timing]) -> float:
    """From the first request to the end of the last answer."""
    return max(one.ended for one in timings) - min(one.began for one in timings)
