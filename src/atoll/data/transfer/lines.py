"""Changes as lines of JSON, compressed: the content of a file between two members.

A stream in and a stream out, so that a file of any size takes the memory of one change. Who may read it, and
whether it is whole, is sealed's part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import zstandard

from atoll.domain.errors import DataError

FORMAT = 1
LEVEL = 6


@dataclass(frozen=True)
class Change:
    """A row of atoll.change, as far as it travels in a file."""

    seq: int
    tbl: str
    op: str
    at: int
    ats: str | None
    prev: int | None
    n: int
    cols: list[str]
    vals: list[str]
    scope: str


KNOWN = {field.name for field in fields(Change)}


class Packer:
    """Writes lines into `put`; `close` writes the last of them."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put = put
        self._packer = zstandard.ZstdCompressor(level=LEVEL).compressobj()
        self._line({"format": FORMAT})

    def write(self, change: Change) -> None:
        self._line(asdict(change))

    def close(self) -> None:
        self._put(self._packer.flush())

    def _line(self, content: object) -> None:
        self._put(self._packer.compress(json.dumps(content, separators=(",", ":")).encode() + b"\n"))


def unpack(pieces: Iterable[bytes]) -> Iterator[Change]:
    """The changes, in the order in which they were written."""
    lines = _lines(pieces)
    first = next(lines, {})
    if first.get("format") != FORMAT:
        raise DataError(
            "transfer-version",
            f"cannot read the file: its format is {first.get('format')}, this Atoll knows {FORMAT}",
            hint="Update the older of the two nodes.",
        )
    for line in lines:
        yield Change(**{key: value for key, value in line.items() if key in KNOWN})


def _lines(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    unpacker = zstandard.ZstdDecompressor().decompressobj()
    held: list[bytes] = []
    for piece in pieces:
        *whole, rest = unpacker.decompress(piece).split(b"\n") if piece else [b""]
        for line in whole:
            yield json.loads(b"".join(held) + line)
            held.clear()
        held.append(rest)
