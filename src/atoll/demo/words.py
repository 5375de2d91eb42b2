"""Numbers as people read them. ASCII only, so that any terminal and any log can show them."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A time span to two or three digits: 3 ms, 250 ms, 6.2 s, 1:05 min."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


def latency(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def size(number: int) -> str:
    """850 B, 12 kB, 3.4 MB."""
    if number < 1000:
        return f"{number} B"
    if number < 999_500:
        return f"{number / 1000:.0f} kB"
    return f"{number / 1_000_000:.1f} MB"


def lag(seconds: float) -> str:
    return "in step" if seconds <= 0 else duration(seconds)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def short(number: int) -> str:
    """Short, however large: 9,999, then 10k."""
    return f"{number:,}" if number < 10_000 else f"{number // 1000}k"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """12 rows, 1 row."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: list[str] | tuple[str, ...]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
