"""What the machine says that it has used, where it says so: the counters of Linux's powercap, in joules.

They count whole packages with their memory, whoever computes on them; newer kernels show them to root alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/class/powercap")
PACKAGE, MEMORY = "package", "dram"  # what else is counted is a part of a package, or holds all of them


class Meter:
    """Counts from when it is made."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._before = dict(self._counters())

    def joules(self) -> float | None:
        """None where nothing is counted, or the counters may not be read."""
        spent = [
            (now - self._before[zone][0]) % (most + 1)  # a counter begins again at 0
            for zone, (now, most) in self._counters()
            if zone in self._before
        ]
        return sum(spent) / 1e6 if spent else None

    def _counters(self) -> Iterator[tuple[str, tuple[int, int]]]:
        for zone in sorted(self._root.glob("*:*")):
            try:
                name = (zone / "name").read_text().strip()
                if name.startswith(PACKAGE) or name == MEMORY:
                    most = int((zone / "max_energy_range_uj").read_text())
                    yield zone.name, (int((zone / "energy_uj").read_text()), most)
            except (OSError, ValueError):
                continue
