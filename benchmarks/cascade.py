"""What does a cascade of two classifiers come to, against the small one, the large one, and an oracle?

Written digits with noise (scikit-learn's copy of UCI's, 1,797 images, CC BY 4.0): a net of 10 units and one
of 128 and 64 are trained on one part, thresholds are found on a second as `atoll route calibrate` finds
them, and everything is counted on a third that neither has seen, asked through the cascade and ONNX Runtime.
Every split is made anew for each seed. Needs scikit-learn.

    python benchmarks/cascade.py [--seeds 5] [--noise 0.3]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from atoll.router.cascades import cascading, scores
from atoll.router.cascades.calibrate import Example, Examples
from atoll.router.policy import cascade
from atoll.router.policy.confidence import Calibration
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.runtimes.onnx.wants import Wants
from support import report

CALIBRATION, TEST = 500, 500
BELOW = 0.05  # the accuracy that is promised, less than the large model's on the calibration part
SHARE = 0.2
COPIES = 4  # of each image to learn from, each with noise of its own
Floats = NDArray[np.float32]


def noisy(images: Floats, noise: float, chance: np.random.Generator) -> Floats:
    return np.clip(images + chance.normal(0, noise, images.shape), 0, 1).astype(np.float32)


def write(net: MLPClassifier, path: Path) -> Path:
    """The net as ONNX: x [rows, 64] → probabilities."""
    nodes, weights, last = [], [], "x"
    for number, (weight, bias) in enumerate(zip(net.coefs_, net.intercepts_, strict=True)):
        for name, values in (("w", weight), ("b", bias)):
            weights.append(numpy_helper.from_array(values.astype(np.float32), f"{name}{number}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{number}", f"b{number}"], [f"h{number}"]))
        last = f"h{number}"
        if number < len(net.coefs_) - 1:
            nodes.append(helper.make_node("Relu", [last], [f"r{number}"]))
            last = f"r{number}"
    nodes.append(helper.make_node("Softmax", [last], ["probabilities"], axis=1))
    shapes = (("x", 64), ("probabilities", 10))
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name, size in shapes]
    graph = helper.make_graph(nodes, "digits", told[:1], told[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def trained(folder: Path, x: Floats, y: NDArray[Any], seed: int) -> list[Path]:
    found = []
    for name, hidden in (("small", (10,)), ("large", (128, 64))):
        net = MLPClassifier(hidden, max_iter=30, random_state=seed, n_iter_no_change=30)
        found.append(write(net.fit(x, y), folder / f"{name}-{seed}.onnx"))
    return found


async def one_seed(folder: Path, seed: int, noise: float) -> dict[str, tuple[float, float]]:
    """Accuracy and share answered by the small model, for each way."""
    chance = np.random.default_rng(seed)
    digits = load_digits()
    order = chance.permutation(len(digits.target))
    x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    cut = len(y) - CALIBRATION - TEST
    more = noisy(np.tile(x[:cut], (COPIES, 1)), noise, chance)
    files = trained(folder, more, np.tile(y[:cut], COPIES), seed)
    x = noisy(x, noise, chance)
    small, large = (OnnxRuntime(file, Wants(threads=1)) for file in files)
    for runtime in (small, large):
        await runtime.start()
    try:
        known = slice(cut, cut + CALIBRATION)
        outputs = [(await runtime.infer({"x": x[known]}))["probabilities"] for runtime in (small, large)]
        right = [values.argmax(1) == y[known] for values in outputs]
        sure = scores.scores({"p": outputs[0]}, None, Calibration())
        examples = Examples([Example(*one) for one in zip(sure.tolist(), *right, strict=True)])
        promised = float(right[1].mean()) - BELOW
        thresholds = {
            "small only": 0.0,
            "large only": 1.0,
            f"cascade, accuracy of the large less {BELOW}": examples.for_accuracy(promised).threshold,
            f"cascade, at most {SHARE:.0%} go on": examples.for_share(SHARE).threshold,
            "cascade, threshold 0.5 as guessed": 0.5,
            "cascade, threshold 0.9 as guessed": 0.9,
        }
        unseen, truth = x[cut + CALIBRATION :], y[cut + CALIBRATION :]
        found = {
            way: await asked(threshold, unseen, truth, small, large)
            for way, threshold in thresholds.items()
            if threshold is not None
        }
        best = [(await runtime.infer({"x": unseen}))["probabilities"].argmax(1) for runtime in (small, large)]
        needed = (best[0] != truth) & (best[1] == truth)
        either = (best[0] == truth) | (best[1] == truth)
        found["oracle"] = float(either.mean()), 1 - float(needed.mean())
        return found
    finally:
        for runtime in (small, large):
            await runtime.stop()


async def asked(
    threshold: float, x: Floats, y: NDArray[Any], small: OnnxRuntime, large: OnnxRuntime
) -> tuple[float, float]:
    """Through the cascade, in requests of 25 rows."""
    told: Mapping[str, Any] = {"first": "small", "then": "large", "measure": "score", "threshold": threshold}
    policy, right, gone_on = cascade.parse(told), 0, 0
    for begin in range(0, len(x), 25):
        part = {"x": x[begin : begin + 25]}
        answer = await cascading.infer(policy, part, small.infer, large.infer, lambda: ())
        right += int((answer.outputs["probabilities"].argmax(1) == y[begin : begin + 25]).sum())
        gone_on += answer.rows_gone_on
    return right / len(x), 1 - gone_on / len(x)


def told(found: Sequence[dict[str, tuple[float, float]]]) -> None:
    print(f"{'':<44}{'accuracy':>22}{'answered small':>24}{'of runs':>9}")
    for way in found[0]:
        known = [one[way] for one in found if way in one]
        accuracy, share = ([one[column] for one in known] for column in (0, 1))
        line = f"{way:<44}{report.spread(accuracy, '.3f'):>22}{report.spread(share, '.1%'):>24}"
        print(f"{line}{len(known):>6} of {len(found)}")
    gains = [
        one[way][0] - one["large only"][0] for one in found for way in one if way.startswith("cascade, acc")
    ]
    if gains:
        print(f"accuracy against the large model alone: {statistics.mean(gains):+.3f} on average")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--noise", type=float, default=0.3)
    given = parser.parse_args()
    report.heading("What does a cascade come to? Seeds from 0 on.", 0, "not used", "the large model alone")
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(given.seeds)
        told([asyncio.run(one_seed(Path(folder), seed, given.noise)) for seed in seeds])


if __name__ == "__main__":
    main()
