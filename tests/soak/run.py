"""A hub and three edges under load, hit by one fault after the other for as long as is asked: `make soak`.

Every ten seconds each node is measured. Between rounds and at the end all nodes are the same and the books
agree; then what was measured is compared with its bounds. Ctrl-C ends it early, with what there is so far.
Samples are in build/soak as they are taken, and the nodes' logs once something was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast, get_args

import psycopg

from soak.bounds import Line, judge
from soak.errors import unknown_errors
from soak.gauges import Sample, take
from support.faults import FAULTS, Stage, can_mount, migrate
from support.fix_mesh import Mesh, MeshMaker, make_seed
from support.load import Load
from support.parcels import Places
from support.shapes import Shape, make_shape

SAMPLE_SECONDS = 10.0
ROUND_SECONDS = 300.0
PAUSE_SECONDS = 0.15
CALM_SECONDS = (5.0, 20.0)
PATIENCE_SECONDS = 300.0
FLAGS = ("--wal-keep", "64MB")
KEPT = Path("build/soak")


@dataclass
class Soak:
    """The run: what has been measured and done so far."""

    mesh: Mesh
    places: Places
    rng: random.Random
    end: float
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    written: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def tell(self, what: str) -> None:
        print(f"{self.seconds:7.0f} s  {what}", flush=True)

    async def run(self) -> None:
        """Rounds of load and faults, each to the proof that nothing is lost."""
        names = [name for name in FAULTS if name != "full-disk" or can_mount()]
        while self.seconds < self.end:
            stops = min(self.seconds + ROUND_SECONDS, self.end)
            async with Load(
                self.mesh, self.rng, most=10**9, pause_seconds=PAUSE_SECONDS, places=self.places
            ) as load:
                while self.seconds < stops:
                    await self._fault(load, self.rng.choice(names))
                    await asyncio.sleep(self.rng.uniform(*CALM_SECONDS))
            self.written += load.acknowledged
            self.tell(f"settling after {load.acknowledged} transactions")
            await self.mesh.settle(PATIENCE_SECONDS)
            await load.verify()

    async def _fault(self, load: Load, name: str) -> None:
        async with FAULTS[name](Stage(self.mesh, load, self.rng)) as hit:
            self.tell(f"{name} of {hit.name}; {self.written + load.acknowledged} transactions so far")
            await load.written(self.rng.randint(20, 200))
            if name == "skew":
                other = next(node for node in self.mesh.live() if node is not hit)
                column = f"soak_{self.faults[name]}"
                await migrate(self.mesh, other, f"alter table sale add column {column} integer default 7")
        await self.mesh.form(PATIENCE_SECONDS)
        self.faults[name] += 1

    async def measure(self) -> None:
        """Samples of all nodes that can be asked, for good."""
        while True:
            for node in self.mesh.live():
                with contextlib.suppress(psycopg.Error, OSError, AssertionError):
                    sample = await take(self.mesh, node, self.seconds)
                    self.samples.append(sample)
                    with (KEPT / "samples.jsonl").open("a") as file:
                        file.write(json.dumps(asdict(sample)) + "\n")
            await asyncio.sleep(SAMPLE_SECONDS)

    def report(self) -> list[str]:
        """The table, and everything that is wrong."""
        lines = judge(self.samples)
        _table(lines)
        done = ", ".join(f"{count} {name}" for name, count in sorted(self.faults.items()))
        print(f"{self.seconds:.0f} s, {self.written} transactions settled, {len(self.samples)} samples")
        print(f"faults: {done or 'none'}")
        problems = [problem for line in lines for problem in line.problems]
        for node in self.mesh.nodes:
            for kind, count in sorted(unknown_errors(node.home).items()):
                problems.append(f"{node.name} logged {count} times: {kind}")
        return problems


def _table(lines: Sequence[Line]) -> None:
    print(f"\n{'gauge':<24} {'early':>8} {'late':>8} {'peak':>8} {'bound':>8}  worst node")
    for line in lines:
        word = "" if not line.problems else "  <-- " + "; ".join(line.problems)
        print(
            f"{line.gauge:<24} {line.early:8.1f} {line.late:8.1f} {line.peak:8.1f} {line.bound.most:8g}"
            f"  {line.node}{word}"
        )


async def soak(seconds: float, shape: Shape, nodes: int, seed: int | None) -> int:
    rng = make_seed(seed)
    maker = MeshMaker()
    try:
        mesh, places = await make_shape(maker, shape, nodes, FLAGS)
        run = Soak(mesh, places, rng, seconds)
        return await _to_its_end(run)
    finally:
        await maker.close()


async def _to_its_end(run: Soak) -> int:
    measuring = asyncio.create_task(run.measure())
    failure: BaseException | None = None
    try:
        await run.run()
    except BaseException as error:  # also Ctrl-C, and a check that failed: the table is for them, too
        failure = error
    finally:
        measuring.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await measuring
    problems = run.report()
    if isinstance(failure, asyncio.CancelledError):
        print("ended early, as asked")
        return 130
    if failure is not None:
        traceback.print_exception(failure)
        problems.append(f"{type(failure).__name__}: {failure}")
    if problems:
        for node in run.mesh.nodes:
            shutil.copytree(node.home / "logs", KEPT / node.name, dirs_exist_ok=True)
        problems.append(f"the logs of all nodes are in {KEPT}")
    print("\n".join(problems) or "every bound holds; all nodes are the same; nothing was lost")
    return 1 if problems else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--shape", choices=get_args(Shape), default="hub")
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    try:
        return asyncio.run(soak(given.seconds, cast("Shape", given.shape), given.nodes, given.seed))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
