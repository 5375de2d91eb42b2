"""What does it bring to run requests together that wait for the same model?

Many callers, each with one row, ask an ONNX model as fast as they are answered; with merging and without, in
turns, in one process, without HTTP. A small model, whose time is the way to the engine, and one whose time is
reading its weights.

    python benchmarks/tensor_merging.py [--callers 32] [--rounds 5] [--seed 1]
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.runtimes.onnx.wants import Wants
from support import report
from support.networks import save_dense

MODELS = {"small, 64-128-10": [64, 128, 10], "6 million weights, 512-2048-2048-256": [512, 2048, 2048, 256]}
SECONDS = 1.5


async def rate(runtime: OnnxRuntime, width: int, callers: int) -> float:
    x = np.ones((1, width), np.float32)
    end = time.perf_counter() + SECONDS

    async def ask() -> int:
        count = 0
        while time.perf_counter() < end:
            await runtime.infer({"x": x})
            count += 1
        return count

    return sum(await asyncio.gather(*(ask() for _ in range(callers)))) / SECONDS


async def measure(options: argparse.Namespace, folder: Path) -> None:
    for name, sizes in MODELS.items():
        file = save_dense(folder / "m.onnx", sizes, options.seed)
        merging, apart = OnnxRuntime(file), OnnxRuntime(file, Wants(merged_rows_max=0))
        assert (await merging.start()).details["merges"]
        await apart.start()
        rates: dict[str, list[float]] = {"together": [], "apart": []}
        for _ in range(options.rounds):
            rates["apart"].append(await rate(apart, sizes[0], options.callers))
            rates["together"].append(await rate(merging, sizes[0], options.callers))
        ratio = sorted(t / a for t, a in zip(rates["together"], rates["apart"], strict=True))
        print(
            f"{name:<38} apart {report.spread(rates['apart'])} requests/s  "
            f"together {report.spread(rates['together'])}  ratio {report.spread(ratio, '.2f')}"
        )
        await merging.stop()
        await apart.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"What does it bring to run waiting requests together? {options.callers} callers, a row each")
    print(f"machine   {report.machine()}")
    print(f"versions  ONNX Runtime {metadata.version('onnxruntime')}; seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(options, Path(folder)))


if __name__ == "__main__":
    main()
