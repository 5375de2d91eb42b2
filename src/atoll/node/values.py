"""How the text of a setting becomes a value: addresses, sizes, durations, names.

What cannot be read is a ValueError. A value from atoll.toml may already be a number or a list; text
from a flag or a variable is read the same way.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

SIZES = {"": 1, "b": 1, "kb": 1024, "mb": 1024**2, "gb": 1024**3, "tb": 1024**4}
DURATIONS = {"ms": 0.001, "s": 1, "": 1, "min": 60, "h": 3600, "d": 86400}
WILDCARDS = ("0.0.0.0", "::", "*")  # noqa: S104 (names of wildcards, nothing is bound here)


@dataclass(frozen=True)
class Address:
    """A host and a port, written as host:port or [v6]:port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        return self.host in WILDCARDS


def address(value: object) -> Address:
    text = _text(value)
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65535:
        raise ValueError("it must be HOST:PORT, such as 127.0.0.1:8600 or [::1]:8600")
    host = match[1] or match[2]
    return Address("0.0.0.0" if host == "*" else host, int(match[3]))  # noqa: S104 (the user asked for it)


def text(value: object) -> str:
    return _text(value)


def address_or_off(value: object) -> Address | None:
    return None if _text(value) in ("off", "") else address(value)


def addresses(value: object) -> tuple[Address, ...]:
    parts = value if isinstance(value, list) else [part for part in _text(value).split(",") if part.strip()]
    return tuple(address(part) for part in parts)


def dial_table(value: object) -> Mapping[str, Address]:
    if isinstance(value, Mapping):
        return {str(name): address(target) for name, target in value.items()}
    pairs = [part.partition("=") for part in _text(value).split(",") if part.strip()]
    if any(not name.strip() or not target for name, _, target in pairs):
        raise ValueError("it must be NAME=HOST:PORT, several separated by commas")
    return {name.strip(): address(target) for name, _, target in pairs}


def size(value: object) -> int:
    """Bytes: a number, or a number with kB, MB, GB or TB."""
    return int(_measured(value, SIZES, "a size such as 512MB"))


def size_or_off(value: object) -> int | None:
    return None if _text(value) in ("off", "", "0") else size(value)


def memory(value: object) -> int:
    """Bytes: a size, or a share of what this machine lets the process have."""
    text = _text(value)
    if not text.endswith("%"):
        return size(value)
    share = _measured(value, {"%": 0.01}, "a size such as 4GB, or a share of the memory such as 50%")
    if not 0 < share <= 1:
        raise ValueError("it must be at most 100%")
    return int(share * memory_of_machine())


def memory_of_machine(folder: Path = Path("/")) -> int:
    """Bytes of memory, or fewer where a container is held to that."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int((folder / name).read_text()))
    return total


def share_or_off(value: object) -> float | None:
    """A part of one: a percentage up to 50%."""
    if _text(value) in ("off", "", "0"):
        return None
    share = _measured(value, {"%": 0.01}, "a share such as 2%, or off")
    if not 0 < share <= 0.5:
        raise ValueError("it must be at most 50%")
    return share


def duration(value: object) -> float:
    """Seconds: a number, or a number with ms, s, min, h or d."""
    return _measured(value, DURATIONS, "a duration such as 5min")


def pattern(expression: str, meaning: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value)
        if not re.fullmatch(expression, text):
            raise ValueError(f"it must be {meaning}")
        return text

    return read


def one_of(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        text = _text(value)
        if text not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return text

    return read


def major(value: object) -> int:
    return int(one_of("16", "18")(value))


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("it must be text or a number")
    return str(value).strip()


def _measured(value: object, units: Mapping[str, float], meaning: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-zA-Z%]*)", _text(value))
    if match is None or match[2].lower() not in units:
        raise ValueError(f"it must be {meaning}")
    return float(match[1]) * units[match[2].lower()]
