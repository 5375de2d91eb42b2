"""What a run that lasts may take, decided from its samples. Pure.

A gauge has a ceiling that it never passes, and after the warm-up it may not grow: what is typical of its last
third is compared with what is typical of its first. What tables hold grows with what is written, so no gauge
counts rows as such.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from soak.gauges import Sample

WARM_UP_PART = 0.25
SAMPLES_MIN = 12


@dataclass(frozen=True)
class Bound:
    """The most that a gauge may show; how much more at the end than early on, as a part and beside it."""

    most: float
    growth_part: float
    growth: float


# wal_keep is 64 MB in a soak, and PostgreSQL recycles up to max_wal_size (1 GB) of segments. Beside wal_keep
# it keeps min_wal_size (80 MB) of them, once that much was written, which takes longer than the warm-up.
# A copy for a peer lies in the log until the peer has it, 32 MB and a stretch at most; three peers may need
# one at once. The room is used again, but the file seldom becomes shorter: some change lies at its end.
COPY_MB = 32 + 8
BOUNDS: Mapping[str, Bound] = {
    "WAL, MB": Bound(1024 + 64 + 48, 0.5, 64 + 80),
    "change log, MB": Bound(3 * COPY_MB + 24, 0.5, 2 * COPY_MB),
    "sidecar rows per row": Bound(3, 0.2, 0.1),
    "node, MB": Bound(200, 0.15, 10),
    "PostgreSQL, MB": Bound(500, 0.25, 30),
    "connections": Bound(60, 0.3, 5),
    "open files, node": Bound(200, 0.3, 10),
    "open files, PostgreSQL": Bound(2000, 0.3, 150),
}


@dataclass(frozen=True)
class Line:
    """One gauge over all nodes: the node where it was greatest, and what is wrong, if anything is."""

    gauge: str
    node: str
    early: float
    late: float
    peak: float
    bound: Bound
    problems: tuple[str, ...]


def judge(samples: Sequence[Sample], bounds: Mapping[str, Bound] = BOUNDS) -> list[Line]:
    lines = []
    for gauge, bound in bounds.items():
        by_node: dict[str, list[float]] = {}
        for sample in samples:
            by_node.setdefault(sample.node, []).append(sample.gauges[gauge])
        found = [_line(gauge, node, values, bound) for node, values in by_node.items()]
        if found:
            lines.append(max(found, key=lambda line: (bool(line.problems), line.peak)))
    return lines


def _line(gauge: str, node: str, values: Sequence[float], bound: Bound) -> Line:
    early, late = typical(values)
    problems = []
    if max(values) > bound.most:
        problems.append(f"{max(values):.1f} on {node} is more than {bound.most:g}")
    if len(values) >= SAMPLES_MIN and late > early * (1 + bound.growth_part) + bound.growth:
        problems.append(f"grew from {early:.1f} to {late:.1f} on {node}")
    return Line(gauge, node, early, late, max(values), bound, tuple(problems))


def typical(values: Sequence[float]) -> tuple[float, float]:
    """The median early after the warm-up, and the one at the end."""
    warm = values[int(len(values) * WARM_UP_PART) :]
    third = max(1, len(warm) // 3)
    return statistics.median(warm[:third]), statistics.median(warm[-third:])
