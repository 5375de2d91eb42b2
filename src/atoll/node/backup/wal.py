"""The WAL that belongs to a backup: copied as it is written, and then given up.

So a backup that takes long needs no more of it kept than a short one, and the bound on what a slot may keep
(`--wal-keep`) does not bound how large a node may grow.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import psycopg

from atoll.domain.errors import DataError
from atoll.node.backup.archive import Writer
from atoll.sql import query

SEGMENT = re.compile(r"[0-9A-F]{24}")
FOLDER = "data/pg_wal"


class Wal:
    def __init__(
        self, connection: psycopg.Connection[tuple[Any, ...]], folder: Path, writer: Writer, slot: str
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._writer = writer
        self._slot = slot
        self._next = ""

    def begin(self) -> None:
        """The server's checkpoint comes first: a slot keeps what was written since the latest one."""
        (self._next,) = self._row("start")
        self._row("keep_wal", self._slot)
        for name in (FOLDER, f"{FOLDER}/archive_status"):
            self._writer.folder(name)

    def follow(self) -> None:
        """Copy the files that are full."""
        current, place = self._row("wal_now")
        if current > self._next:
            self._copy([name for name in self._files() if self._next <= name < current])
            self._row("give_up_wal", self._slot, place)
            self._next = current

    def finish(self) -> str:
        """Copy the rest. Says what the server that starts from the backup has to know."""
        end, label = self._row("stop")
        names = [name for name in self._files() if self._next <= name <= end]
        if end not in names:
            raise _gone()
        self._copy(names)
        return str(label)

    def _files(self) -> list[str]:
        return [name for name in sorted(os.listdir(self._folder)) if SEGMENT.fullmatch(name)]

    def _copy(self, names: list[str]) -> None:
        if self._next not in names:
            raise _gone()
        for name in names:
            with (self._folder / name).open("rb") as source:
                self._writer.file(f"{FOLDER}/{name}", source, os.fstat(source.fileno()).st_size)

    def _row(self, name: str, *values: Any) -> tuple[Any, ...]:
        row = self._connection.execute(query("backup", name), values).fetchone()
        assert row is not None, name
        return row


def _gone() -> DataError:
    return DataError(
        "backup-interrupted",
        "could not back the node up: WAL that belongs to the backup is gone",
        hint="Try again; a larger --wal-keep gives it more time.",
    )
