"""The few words of Protocol Buffers that finding one's way through a file takes.

A message is a stretch of the file; its fields are given as they come, and a field that is a message or bytes
as another stretch, which is read only by whoever wants it: weights are stepped over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from atoll.registry.formats.source import Source

REPEATED_BYTES_MAX = 1024
VARINT, FIXED64, STRETCH, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Stretch:
    begin: int
    end: int

    @property
    def length(self) -> int:
        return self.end - self.begin


def fields(source: Source, within: Stretch) -> Iterator[tuple[int, int | Stretch]]:
    """The number and value of each field: a whole number, or where its bytes are."""
    at = within.begin
    while at < within.end:
        source.step()
        source.go(at)
        tag = _varint(source)
        number, wire = tag >> 3, tag & 7
        value: int | Stretch
        if wire == VARINT:
            value = _varint(source)
        elif wire in (FIXED64, FIXED32):
            value = source.number("Q" if wire == FIXED64 else "I", "a number")
        elif wire == STRETCH:
            length = _varint(source)
            value = Stretch(source.at, source.at + length)
        else:
            raise source.bad(f"there is no field at byte {at}")
        at = value.end if isinstance(value, Stretch) else source.at
        if number == 0 or at > within.end:
            raise source.bad(f"the field at byte {source.at} goes on beyond its message")
        yield number, value


def text(source: Source, where: int | Stretch, what: str) -> str:
    return content(source, where, what).decode("utf-8", "replace")


def content(source: Source, where: int | Stretch, what: str) -> bytes:
    if not isinstance(where, Stretch):
        raise source.bad(f"{what} is a number")
    source.go(where.begin)
    return source.take(where.length, what)


def numbers(source: Source, value: int | Stretch, what: str) -> list[int]:
    """A repeated whole number: one by one, or packed."""
    if isinstance(value, int):
        return [_signed(value)]
    found = []
    if value.length > REPEATED_BYTES_MAX:
        raise source.bad(f"{what} claims {value.length} bytes")
    source.go(value.begin)
    while source.at < value.end:
        found.append(_signed(_varint(source)))
    return found


def _varint(source: Source) -> int:
    found = 0
    for shift in range(0, 70, 7):
        byte = source.take(1, "a number")[0]
        found |= (byte & 127) << shift
        if byte < 128:
            return found & (2**64 - 1)
    raise source.bad(f"the number before byte {source.at} does not end")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
