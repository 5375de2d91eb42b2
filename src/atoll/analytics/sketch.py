"""Quantiles from a histogram with logarithmic buckets (DDSketch), in plain SQL on both sides.

A value's bucket is the power of GAMMA above it, so the middle of a bucket is within ACCURACY of every value
in it; histograms of many nodes merge by adding counts. The smallest and the largest value of a bucket travel
along and bound the estimate. Infinities and NaN have buckets of their own, as PostgreSQL orders them.
"""

from __future__ import annotations

import math

ACCURACY = 0.01
GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
LOG_GAMMA = math.log(GAMMA)
MIDDLE = (
    50_001  # above the index of the smallest number, so that the sign of a code is the sign of its values
)
ENDS = 200_000


def bucket(value: str) -> str:
    """The code of a value's bucket, for PostgreSQL. Codes are ordered as the values are."""
    x = f"({value})::float8"
    return (
        f"case when {x} = 0 then 0 when {x} = 'NaN'::float8 then {ENDS + 1}"
        f" when {x} = 'Infinity'::float8 then {ENDS} when {x} = '-Infinity'::float8 then {-ENDS}"
        f" when {x} > 0 then {MIDDLE} + ceil(ln({x}) / {LOG_GAMMA!r})::int"
        f" else -({MIDDLE} + ceil(ln(-({x})) / {LOG_GAMMA!r})::int) end"
    )


def estimate(code: str, low: str, high: str) -> str:
    """What a bucket stands for: its middle, but nothing outside of what was seen in it."""
    power = f"exp((abs({code}) - {MIDDLE}) * {LOG_GAMMA!r}) * {2 / (GAMMA + 1)!r}"
    return (
        f"case when {code} = 0 then 0.0::float8 when abs({code}) >= {ENDS} then {high}"
        f" else least(greatest(sign({code}) * {power}, {low}), {high}) end"
    )


def continuous(share: float) -> str:
    """percentile_cont over buckets with `v`, and `upto` and `n` rows up to here and in all."""
    place = f"({share!r}::float8 * (n - 1))"
    low = f"min(v) filter (where upto > floor({place}))"
    high = f"min(v) filter (where upto > ceil({place}))"
    part = f"(max({place}) - floor(max({place})))"
    return f"case when {part} = 0 then {low} else {low} + ({high} - {low}) * {part} end"


def discrete(share: float) -> str:
    """percentile_disc over the same."""
    return f"min(v) filter (where upto >= {share!r}::float8 * n)"
