"""`make simulate`: a thousand nodes in three tiers, calm and with failures, as tables.

python -m simulation.run [NODES] [WRITES] [SEED]
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterable, Sequence
from statistics import fmean

from simulation.fleet import Fleet, Node, make_members, make_outages, make_writes

SECONDS = 60.0
COLUMNS = ("tier", "nodes", "p50", "p99", "max", "received", "twice", "sent on", "kB in", "kB out", "moves")
TIERS = ("edge", "hub", "cloud")


def main(size: int = 1000, count: int = 300, seed: int = 1) -> None:
    print(f"{size} nodes, {count} writes within {SECONDS:.0f} s, seed {seed}\n")
    for name, is_stormy in (("calm", False), ("with failures", True)):
        began = time.monotonic()
        fleet = simulate(size, count, seed, is_stormy=is_stormy)
        took = time.monotonic() - began
        assert not fleet.missing()
        assert not fleet.strayed()
        print("\n".join(report(name, fleet)), f"\n({took:.0f} s)\n")


def simulate(size: int, count: int, seed: int, *, is_stormy: bool) -> Fleet:
    rng = random.Random(seed)
    members = make_members(size)
    writes = make_writes(rng, members, count, SECONDS)
    fleet = Fleet(members)
    fleet.run(writes, make_outages(rng, members, SECONDS) if is_stormy else ())
    return fleet


def report(name: str, fleet: Fleet) -> Iterable[str]:
    data = [n for n, write in enumerate(fleet.writes) if not write.is_mark]
    marks = len(fleet.writes) - len(data)
    yield f"{name}: {len(data)} changes and {marks} marks"
    yield ""
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + "---|" * len(COLUMNS)
    for tier in TIERS:
        nodes = [node for node in fleet.nodes.values() if node.member.tier == tier]
        delays = sorted(delay for node in nodes for delay in _delays(fleet, node, data))
        yield (
            "| "
            + " | ".join(
                [
                    tier,
                    str(len(nodes)),
                    *(_seconds(_quantile(delays, q)) for q in (0.5, 0.99, 1.0)),
                    *(
                        f"{fmean(values):,.{0 if fmean(values) >= 10 else 1}f}"
                        for values in (
                            [n.received for n in nodes],
                            [n.duplicates for n in nodes],
                            [n.forwarded for n in nodes],
                            [n.bytes_in / 1000 for n in nodes],
                            [n.bytes_out / 1000 for n in nodes],
                        )
                    ),
                    str(sum(n.moves for n in nodes)),
                ]
            )
            + " |"
        )


def _delays(fleet: Fleet, node: Node, data: Sequence[int]) -> Iterable[float]:
    number = node.member.number
    for change in data:
        heard = fleet.heard_at[change].get(number)
        if heard is not None and fleet.writes[change].origin != number:
            yield heard - fleet.writes[change].at


def _quantile(values: Sequence[float], q: float) -> float:
    return values[min(int(q * len(values)), len(values) - 1)]


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
