"""What a model's server is asked, as JSON. Strictly: what only some readers take for JSON is none."""

from __future__ import annotations

import json
from typing import Any

from atoll.domain.errors import DataError

BODY_BYTES_MAX = 32 * 1024 * 1024
NESTS = (dict, list)


def is_deeper(value: Any, levels: int) -> bool:
    """Layer by layer, without recursion."""
    layer = [value]
    for _ in range(levels):
        nests = [one for one in layer if isinstance(one, NESTS)]
        layer = [inner for one in nests for inner in (one.values() if isinstance(one, dict) else one)]
        if not layer:
            return False
    return True


def write(body: Any) -> bytes:
    """Refuses what is no JSON, and what is too long."""
    try:
        text = write_json(body)
    except ValueError:
        raise DataError("request-refused", "cannot answer the request: it is not JSON") from None
    if len(text) > BODY_BYTES_MAX:
        raise DataError("request-refused", "cannot answer the request: it is too long")
    return text


def write_json(body: Any) -> bytes:
    """ValueError where it is none."""
    import orjson

    try:
        text = orjson.dumps(body)
        if b"null" not in text:  # as which it writes what is not a number, too
            return text
    except TypeError:  # or a number that is larger than it writes
        pass
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
