"""The lock of a home: one process runs its node, and leaves word in it for the commands of other processes.

The kernel takes a lock back whenever its process ends, so nothing stale can be left. Looking never needs
rights to write.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError

WORD_BYTES = 4096
LOCK_ATTEMPTS = 10
LOCK_PAUSE_SECONDS = 0.05


class HomeLock:
    """The right to run the node of a home; the kernel takes it back whenever the process ends."""

    def __init__(self, path: Path) -> None:
        self._file = path / "lock"
        self._descriptor: int | None = None

    def take(self) -> None:
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        # A question by holder() takes the lock for an instant, so one refusal is no proof.
        for attempt in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == LOCK_ATTEMPTS - 1:
                    os.close(descriptor)
                    self._refuse()
                time.sleep(LOCK_PAUSE_SECONDS)
        self._descriptor = descriptor
        self.tell({"pid": os.getpid()})

    def tell(self, facts: Mapping[str, object]) -> None:
        """Leave word for other commands: the pid, and the addresses once they are known."""
        assert self._descriptor is not None
        # Always as long, in one write: a reader never sees half of it, and a full disk has room for it.
        os.pwrite(self._descriptor, json.dumps(dict(facts)).encode().ljust(WORD_BYTES), 0)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _refuse(self) -> None:
        pid = _read_word(self._file).get("pid", "unknown")
        raise ConfigError(
            "home-in-use",
            f"another node runs in {self._file.parent} (pid {pid})",
            hint="Stop it first, or choose another home with --home.",
        )


def holder(path: Path) -> dict[str, Any] | None:
    """What the running node of a home left as word, or None where no node runs."""
    file = path / "lock"
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_word(file)
    else:
        return None
    finally:
        os.close(descriptor)


def _read_word(file: Path) -> dict[str, Any]:
    try:
        word = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return word if isinstance(word, dict) else {}
