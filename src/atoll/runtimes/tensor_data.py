"""The elements of one tensor: from JSON or raw bytes to an array, and back.

What does not mean the same as an array of the datatype that it is sent for is refused: 1.5 as an integer, 300
as UINT8, 1e300 as FP32. Raw bytes become an array without being copied.
"""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import DataError

Array = NDArray[Any]
# fmt: off
DTYPES = {
    name: np.dtype(kind)
    for name, kind in (
        ("BOOL", "?"), ("UINT8", "u1"), ("UINT16", "<u2"), ("UINT32", "<u4"), ("UINT64", "<u8"),
        ("INT8", "i1"), ("INT16", "<i2"), ("INT32", "<i4"), ("INT64", "<i8"),
        ("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8"), ("BYTES", "O"),
    )
}
# fmt: on
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAY_BE_SENT_AS = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}


def from_json(name: str, datatype: str, data: list[Any], count: int) -> Array:
    """Flat or nested, in the order of rows."""
    wanted = DTYPES[datatype]
    try:
        found = np.array(data, object if datatype == "BYTES" else None)
    except ValueError as error:
        raise DataError("request-refused", f'"data" of input "{name}" is ragged, or no data') from error
    if found.size != count:
        reject(f'input "{name}" has {found.size} elements, and its shape says {count}')
    if datatype == "BYTES":
        if not all(isinstance(text, str) for text in found.flat):
            reject(f'input "{name}" is BYTES, and has elements that are not text')
        return found
    if wanted.kind in "iu" and found.dtype.kind not in "iu":
        found = _large_numbers(data, found)
    if found.size and found.dtype.kind not in MAY_BE_SENT_AS[wanted.kind]:
        reject(f'input "{name}" is {datatype}, and has elements that are not')
    if wanted.kind in "iu" and found.size:
        bounds = np.iinfo(wanted)
        if int(found.min()) < bounds.min or int(found.max()) > bounds.max:
            reject(f'input "{name}" has elements that {datatype} cannot hold')
    try:
        with np.errstate(over="raise"):
            return found.astype(wanted)
    except FloatingPointError:
        reject(f'input "{name}" has elements that {datatype} cannot hold')


def _large_numbers(data: list[Any], found: Array) -> Array:
    """Where a number is beyond INT64 beside one that is not, numpy makes floats of both."""
    exact = np.array(data, object).ravel()
    if not all(type(number) is int for number in exact) or not exact.size:
        return found
    return found if exact.min() < 0 else exact.astype(np.uint64)


def from_bytes(name: str, datatype: str, held: memoryview, count: int) -> Array:
    if datatype == "BYTES":
        return _cut_texts(name, held, count)
    if len(held) != count * DTYPES[datatype].itemsize:
        reject(f'input "{name}" has {len(held)} bytes, which is not {count} elements of {datatype}')
    if datatype == "BOOL" and count and np.frombuffer(held, np.uint8).max() > 1:
        reject(f'input "{name}" has bytes that are neither 0 nor 1')
    return np.frombuffer(held, DTYPES[datatype])


def to_json(array: Array) -> Any:
    """Flat; as the JSON writer takes it."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat if array.dtype in NAMES and array.dtype.kind != "O" else flat.tolist()


def to_bytes(array: Array) -> bytes | memoryview:
    if array.dtype.kind != "O":
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    texts = (text if isinstance(text, bytes) else str(text).encode() for text in array.ravel().tolist())
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _cut_texts(name: str, held: memoryview, count: int) -> Array:
    """Each text after its length in four bytes, little end first."""
    found: list[bytes] = []
    at = 0
    while at < len(held) and len(found) < count:
        end = at + 4 + int.from_bytes(held[at : at + 4], "little")
        if at + 4 > len(held) or end > len(held):
            reject(f'text {len(found) + 1} of input "{name}" goes on beyond its bytes')
        found.append(bytes(held[at + 4 : end]))
        at = end
    if at != len(held) or len(found) != count:
        reject(f'input "{name}" has other texts than its shape says: {len(found)} were read, of {count}')
    array = np.empty(count, object)
    array[:] = found
    return array


def reject(message: str, *, detail: str | None = None, hint: str | None = None) -> NoReturn:
    raise DataError("request-refused", message, detail=detail, hint=hint)
