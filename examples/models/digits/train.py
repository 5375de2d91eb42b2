"""Train the digits classifier and write it as ONNX. Run again, it goes on from the last epoch.

python digits/train.py [--epochs 120] [--out build/models/digits]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import data
import numpy as np
import onnxruntime
import torch
from onnxruntime import quantization
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import classifier  # noqa: E402

FACTS = {
    "description": "Which digit is written in a small grey image: 8 × 8 pixels, ink from 0 to 1.",
    "license": "Apache-2.0",
    "labels": list(data.LABELS),
    "input": "float32 [batch, 1, 8, 8]: ink from 0 (paper) to 1",
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()

        def block(given: int, made: int) -> list[nn.Module]:
            return [nn.Conv2d(given, made, 3, padding=1), nn.BatchNorm2d(made), nn.ReLU()]

        self.layers = nn.Sequential(
            *block(1, 32), *block(32, 32), nn.MaxPool2d(2), *block(32, 64), nn.Dropout(0.2), nn.Flatten()
        )
        self.head = nn.Linear(64 * 4 * 4, len(data.LABELS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x))


class Reader(quantization.CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self.left = iter(np.split(images, 10))

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self.left, None)
        return None if images is None else {"image": images}


def compare_with_int8(path: Path, calibration: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Size, accuracy and time of both forms, taking turns."""
    small = path.with_suffix(".int8.onnx")
    quantization.quantize_static(path, small, Reader(calibration), per_channel=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(p, options, ["CPUExecutionProvider"]) for p in (path, small)]
    times: list[list[float]] = [[], []]
    for turn in range(4000):
        began = time.process_time()
        sessions[turn % 2].run(None, {"image": x[:1]})
        times[turn % 2].append(time.process_time() - began)
    for file, session, taken in zip((path, small), sessions, times, strict=True):
        right = (session.run(None, {"image": x})[0].argmax(1) == y).mean()
        size, spent = file.stat().st_size, np.median(taken) * 1e6
        print(f"{file.name:>20}: {size:,} bytes, accuracy {right:.3f}, {spent:.0f} µs of CPU an image")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--out", type=Path, default=HERE.parents[2] / "build" / "models" / "digits")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(7)
    training, validation, held_out = data.parts()
    net = Net()
    print(f"{sum(p.numel() for p in net.parameters()):,} weights, {len(training[1])} images to learn from")
    classifier.train(
        net,
        lambda epoch: (data.varied(training[0], epoch), training[1]),
        given.epochs,
        given.out / "checkpoint.pt",
    )
    many = np.concatenate([data.varied(validation[0], 1000 + i) for i in range(10)])
    model = classifier.with_temperature(net, (many, np.tile(validation[1], 10)))
    print(f"temperature {model.temperature:.2f}")
    path = given.out / "digits.onnx"
    classifier.export(model, torch.from_numpy(many[:50]), "image", FACTS, path)
    classifier.report("held out", classifier.run(path, held_out[0]), held_out[1], data.LABELS)
    varied = data.varied(held_out[0], 999)
    classifier.report("held out, varied", classifier.run(path, varied), held_out[1], data.LABELS)
    compare_with_int8(path, validation[0], *held_out)
    images = (held_out[0][:200] * 16).round().astype(np.uint8)
    np.savez_compressed(given.out / "held_out.npz", images=images, labels=held_out[1][:200].astype(np.uint8))


if __name__ == "__main__":
    main()
