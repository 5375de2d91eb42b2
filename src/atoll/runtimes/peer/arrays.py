"""Arrays as a peer sends them: what they are in the head, and their bytes one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from atoll.domain.errors import DataError
from atoll.runtimes.contract import Array
from atoll.runtimes.tensor_data import DTYPES, NAMES, from_bytes, to_bytes

ARRAYS_MAX = 256
SIZES_MAX = 32
BODY_BYTES_MAX = 64 * 1024**2

Described = list[dict[str, Any]]


def describe(arrays: Mapping[str, Array]) -> tuple[Described, bytes]:
    """What arrays there are, and their bytes."""
    told: Described = []
    bodies: list[bytes | memoryview] = []
    for name, array in arrays.items():
        datatype = NAMES.get(array.dtype)
        if datatype is None:
            raise DataError("request-refused", f'cannot send "{name}": no peer knows {array.dtype}')
        bodies.append(to_bytes(array))
        told.append(
            {"name": name, "datatype": datatype, "shape": list(array.shape), "bytes": len(bodies[-1])}
        )
    if len(told) > ARRAYS_MAX or sum(map(len, bodies)) > BODY_BYTES_MAX:
        raise DataError(
            "request-refused",
            f"cannot send arrays of more than {BODY_BYTES_MAX // 1024**2} MB to another node",
        )
    return told, b"".join(bodies)


def read(told: Any, body: bytes | bytearray) -> dict[str, Array]:
    """The arrays again; refused where they are not what is said of them."""
    if not isinstance(told, list) or len(told) > ARRAYS_MAX:
        raise _malformed("there is no list of arrays")
    found: dict[str, Array] = {}
    view, at = memoryview(body), 0
    for one in told:
        name, datatype, shape, size = _read_one(one)
        found[name] = from_bytes(name, datatype, view[at : at + size], math.prod(shape)).reshape(shape)
        at += size
    if at != len(body) or len(found) != len(told):
        raise _malformed("the bytes are not those of the arrays that are named")
    return found


def _read_one(one: Any) -> tuple[str, str, Sequence[int], int]:
    if not isinstance(one, dict):
        raise _malformed("an array is not described")
    name, datatype, shape, size = (one.get(key) for key in ("name", "datatype", "shape", "bytes"))
    if not isinstance(name, str) or datatype not in DTYPES or type(size) is not int or size < 0:
        raise _malformed("an array has no name, datatype or size")
    if not isinstance(shape, list) or len(shape) > SIZES_MAX:
        raise _malformed(f'"{name}" has no shape')
    if not all(type(length) is int and 0 <= length <= BODY_BYTES_MAX for length in shape):
        raise _malformed(f'"{name}" has no shape')
    return name, datatype, shape, size


def _malformed(why: str) -> DataError:
    return DataError("request-refused", f"cannot read the arrays: {why}")
