"""A file that is read piece by piece by somebody who does not trust it.

No piece is larger than asked for and none lies beyond the file's end, whatever lengths the file claims; the
header as a whole has a bound. What cannot be read is said with its place.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import Any

from atoll.domain.errors import DataError
from atoll.registry.formats.found import unusable

PIECE_BYTES_MAX = 4 * 1024**2
STEPS_MAX = 500_000


class Source:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._steps = 0
        try:
            self._file = path.open("rb")
            self.size = self._file.seek(0, 2)
            self._file.seek(0)
        except OSError as error:
            raise self.bad(f"it cannot be read: {error.strerror}", hint="Correct the path.") from error

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def bad(self, why: str, hint: str | None = None) -> DataError:
        return unusable(self.path, why, hint)

    @property
    def at(self) -> int:
        return self._file.tell()

    def go(self, place: int) -> None:
        self._file.seek(place)

    def step(self) -> None:
        """Called once for each thing that is met, so that a header of nothings does not take hours."""
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise self.bad(f"its header has more than {STEPS_MAX} entries")

    def take(self, count: int, what: str) -> bytes:
        if count > PIECE_BYTES_MAX:
            raise self.bad(f"{what} at byte {self.at} claims {count} bytes, more than any model needs")
        found = self._file.read(count)
        if len(found) < count:
            raise self.bad(f"it ends within {what}, at byte {self.size}")
        return found

    def skip(self, count: int, what: str) -> None:
        if self.at + count > self.size:
            raise self.bad(f"{what} at byte {self.at} claims {count} bytes, more than the file has")
        self._file.seek(count, 1)

    def skip_texts(self, count: int, what: str) -> None:
        """Texts that each come after their length; a list of tokens has hundreds of thousands."""
        at, begin, held = self.at, self.at, b""
        for _ in range(count):
            place = at - begin
            if place + 8 > len(held):
                self._file.seek(at)
                held, begin, place = self._file.read(PIECE_BYTES_MAX), at, 0
            if place + 8 > len(held):
                raise self.bad(f"it ends within {what}, at byte {self.size}")
            at += 8 + int.from_bytes(held[place : place + 8], "little")
            if at > self.size:
                raise self.bad(f"{what} before byte {at} claims more than the file has")
        self._file.seek(at)

    def number(self, form: str, what: str) -> Any:
        """One number in the form of `struct`, little end first."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))[0]
