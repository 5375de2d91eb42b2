"""Bounds of a JSON schema before it becomes a grammar. Pure.

The engine turns schemas into grammars in time that grows with the square of a list, and with its stack for
every level: 10,000 levels hang it, 100,000 crash it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from atoll.domain.errors import DataError

DEPTH_MAX = 32
WIDTH_MAX = 128  # entries of one object or list
VALUES_MAX = 5000
REPEAT_MAX = 1000
PATTERN_LENGTH_MAX = 256
_COUNTS = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_REPEATS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")


def check(schema: Any) -> None:
    """Refuse a schema that costs too much."""
    for number, (depth, value) in enumerate(walk(schema, DEPTH_MAX)):
        if depth >= DEPTH_MAX or number >= VALUES_MAX:
            raise _refused(f"It may have {VALUES_MAX:,} values on {DEPTH_MAX} levels.")
        if isinstance(value, dict | list) and len(value) > WIDTH_MAX:
            raise _refused(f"An object or a list in it may have {WIDTH_MAX} entries.")
        if isinstance(value, dict):
            _check_repeats(value)


def walk(value: Any, depth_max: int) -> Iterator[tuple[int, Any]]:
    """Every value with its depth, without recursion; nothing below the deepest level that matters."""
    ahead = [(0, value)]
    while ahead:
        depth, found = ahead.pop()
        yield depth, found
        if depth < depth_max and isinstance(found, dict | list):
            inner = found.values() if isinstance(found, dict) else found
            ahead += [(depth + 1, entry) for entry in inner]


def _check_repeats(schema: dict[Any, Any]) -> None:
    for key in _REPEATS:
        count = schema.get(key)
        if isinstance(count, int | float) and not 0 <= count <= REPEAT_MAX:
            raise _refused(f"Its {key} may be 0 to {REPEAT_MAX:,}.")
    pattern = schema.get("pattern")
    if isinstance(pattern, str):
        repeats = 1
        for low, high in _COUNTS.findall(pattern):
            repeats *= max(1, int(low[:9]), int(high[:9] or 0))
        if len(pattern) > PATTERN_LENGTH_MAX or repeats > REPEAT_MAX:
            raise _refused(
                f"A pattern may have {PATTERN_LENGTH_MAX} characters and {REPEAT_MAX:,} repetitions."
            )


def _refused(detail: str) -> DataError:
    return DataError("request-refused", "cannot follow the JSON schema", detail=detail)
