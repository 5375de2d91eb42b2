"""Where logs go: JSON lines in a bounded set of files, and lines for people on standard error.

A full disk must not stop a node, so what cannot be written to a file is dropped without another word;
standard error still has it. PostgreSQL's own output goes through RotatingFile as it comes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

FILE_BYTES_MAX = 10 * 1024 * 1024
FILES_KEPT = 5
AGAIN_SECONDS, KINDS_MAX = 60.0, 256  # of what libraries say
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever `extra` named."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({key: value for key, value in record.__dict__.items() if key not in _STANDARD})
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainLines(logging.Formatter):
    """One line for a person: time, level where it is not information, message."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        unsaid = getattr(record, "unsaid", 0)
        more = f" (and {unsaid:,} times before that)" if unsaid else ""
        text = f"{moment} {level}{record.getMessage()}{more}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class Seldom(logging.Filter):
    """A library says the same thing once a minute, and then how often it would have said it meanwhile."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("atoll") or record.exc_info:
            return True
        kind, now = (record.name, str(record.msg)), self._clock()
        said_at, unsaid = self._said.get(kind, (-AGAIN_SECONDS, 0))
        if now - said_at < AGAIN_SECONDS:
            self._said[kind] = said_at, unsaid + 1
            return False
        if len(self._said) >= KINDS_MAX:
            self._said.clear()
        self._said[kind] = now, 0
        if unsaid:
            record.unsaid = unsaid
        return True


class _QuietFile(logging.handlers.RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written is lost, and the node goes on."""


def start_logging(file: Path, level: str, form: str) -> None:
    """Send everything that Atoll logs to a file and to standard error."""
    log = logging.getLogger("atoll")
    stop_logging()
    to_file = _QuietFile(file, maxBytes=FILE_BYTES_MAX, backupCount=FILES_KEPT, encoding="utf-8", delay=True)
    to_file.setFormatter(JsonLines())
    to_people = logging.StreamHandler(sys.stderr)
    to_people.setFormatter(JsonLines() if form == "json" else PlainLines())
    for handler in (to_file, to_people):
        handler.addFilter(Seldom())
    log.handlers = [to_file, to_people]
    log.setLevel(level.upper())
    log.propagate = False
    # What libraries complain about belongs in the log too; what they chat about does not.
    root = logging.getLogger()
    root.handlers = [to_file, to_people]
    root.setLevel(logging.WARNING)


def stop_logging() -> None:
    for handler in logging.getLogger("atoll").handlers:
        handler.close()
    logging.getLogger("atoll").handlers = []
    logging.getLogger().handlers = []


class RotatingFile:
    """A file of bytes that starts anew when it is full and keeps a few that came before."""

    def __init__(self, path: Path, bytes_max: int = FILE_BYTES_MAX, kept: int = FILES_KEPT) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._kept = kept
        self._file: BinaryIO | None = None

    def write(self, block: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file is None:
                self._file = self._path.open("ab", buffering=0)
            if self._file.tell() + len(block) > self._bytes_max and self._file.tell():
                self._turn_over()
            self._file.write(block)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _turn_over(self) -> None:
        self.close()
        for number in range(self._kept - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{number + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._path.open("ab", buffering=0)
