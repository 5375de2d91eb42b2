"""Columns of an answer, which come as PostgreSQL's texts, as Arrow arrays.

A type that Arrow lacks, or a value that it cannot hold (a date `infinity`), stays text; a `numeric` that is
too wide for 38 digits becomes a double.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

DIGITS_MAX = 38
INTEGERS = {21: pa.int16(), 23: pa.int32(), 20: pa.int64(), 26: pa.int64()}
FLOATS = {700: pa.float32(), 701: pa.float64()}
BOOL, BYTEA, NUMERIC, DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL = (
    16,
    17,
    1700,
    1082,
    1083,
    1114,
    1184,
    1186,
)
SPAN = re.compile(
    r"P(?:(-?\d+)Y)?(?:(-?\d+)M)?(?:(-?\d+)D)?(?:T(?:(-?\d+)H)?(?:(-?\d+)M)?(?:(-?)(\d+)(?:\.(\d{1,6}))?S)?)?"
)


def arrow_column(oid: int, texts: Sequence[pa.Array]) -> pa.Array:
    """The values of a column, which come in pieces, as what their type says; as text where that cannot be."""
    strings = pa.concat_arrays(texts) if texts else pa.array([], pa.string())
    convert = CONVERT.get(oid)
    if convert is None:
        return strings
    try:
        return convert(strings)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, OverflowError):
        return strings


def _cast(wanted: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    return lambda strings: pc.cast(strings, wanted)


def _bool(strings: pa.Array) -> pa.Array:
    return pc.equal(strings, "t")


def _bytes(strings: pa.Array) -> pa.Array:
    return pa.array([None if s is None else bytes.fromhex(s[2:]) for s in strings.to_pylist()], pa.binary())


def _numeric(strings: pa.Array) -> pa.Array:
    values = [None if text is None else Decimal(text) for text in strings.to_pylist()]
    known = [value for value in values if value is not None]
    if not all(value.is_finite() for value in known):
        return _float(strings)
    scale = max((-int(value.as_tuple().exponent) for value in known), default=0)
    whole = max((value.adjusted() + 1 for value in known), default=1)
    if max(scale, 0) + max(whole, 1) > DIGITS_MAX:
        return _float(strings)
    return pa.array(values, pa.decimal128(DIGITS_MAX, max(scale, 0)))


def _float(strings: pa.Array) -> pa.Array:
    return pa.array([None if text is None else float(text) for text in strings.to_pylist()], pa.float64())


def _time(strings: pa.Array) -> pa.Array:
    read = datetime.time.fromisoformat
    return pa.array([None if text is None else read(text) for text in strings.to_pylist()], pa.time64("us"))


def _time_with_zone(strings: pa.Array) -> pa.Array:
    """The session of the answering node is in UTC, so the offset is always the same."""
    return pc.cast(pc.replace_substring_regex(strings, r"\+00$", "Z"), pa.timestamp("us", "UTC"))


def _span(strings: pa.Array) -> pa.Array:
    return pa.array([_months_days_nanos(text) for text in strings.to_pylist()], pa.month_day_nano_interval())


def _months_days_nanos(text: str | None) -> tuple[int, int, int] | None:
    if text is None:
        return None
    match = SPAN.fullmatch(text)
    if match is None:
        raise ValueError(f"not a span of time: {text}")
    years, months, days, hours, minutes = (int(part or 0) for part in match.groups()[:5])
    sign, whole, fraction = match.groups()[5:]
    micros = int(whole or 0) * 10**6 + int((fraction or "0").ljust(6, "0"))
    micros = (hours * 3600 + minutes * 60) * 10**6 + (-micros if sign else micros)
    return years * 12 + months, days, micros * 1000


CONVERT: dict[int, Callable[[pa.Array], pa.Array]] = {
    **{oid: _cast(kind) for oid, kind in (INTEGERS | FLOATS).items()},
    BOOL: _bool,
    BYTEA: _bytes,
    NUMERIC: _numeric,
    DATE: _cast(pa.date32()),
    TIME: _time,
    TIMESTAMP: _cast(pa.timestamp("us")),
    TIMESTAMPTZ: _time_with_zone,
    INTERVAL: _span,
}
