"""The shape of a report: what it ran on, and medians side by side.

Two figures are only comparable within one run: baseline and subject take turns, and medians are quoted.
"""

from __future__ import annotations

import os
import platform
import statistics
import textwrap
from collections.abc import Sequence
from importlib import metadata

from atoll import __version__


def machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            name = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} processors, {platform.system()} {platform.release()}"


def heading(question: str, seed: int, postgres: str, baseline: str) -> None:
    print(question)
    print(f"machine   {machine()}; load before the run {os.getloadavg()[0]:.1f}")
    print(
        f"versions  atoll {__version__}, PostgreSQL {postgres}, Python {platform.python_version()}, "
        f"psycopg {metadata.version('psycopg')}"
    )
    print(f"seed      {seed}")
    print(textwrap.fill(f"baseline  {baseline}", 110, subsequent_indent=" " * 10), flush=True)


def spread(values: Sequence[float], form: str = ".0f") -> str:
    """A median and the range around it."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:{form}} ({low:{form}}-{high:{form}})"


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
