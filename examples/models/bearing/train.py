"""Train the bearing classifier and write it as ONNX. Run again, it goes on from the last epoch.

python bearing/train.py [--epochs 30] [--out build/models/bearing]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import data
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import classifier  # noqa: E402

FACTS = {
    "description": "The fault of a rolling bearing, from its vibration in g: 512 samples, 3,200 a second.",
    "license": "Apache-2.0",
    "labels": list(data.LABELS),
    "input": "float32 [batch, 512]: acceleration in g, sampled 3,200 times a second",
}


class Net(nn.Module):
    """Convolutions over time. The mean (gravity) is taken away first."""

    def __init__(self) -> None:
        super().__init__()

        def block(given: int, made: int, wide: int, stride: int) -> list[nn.Module]:
            return [nn.Conv1d(given, made, wide, stride, wide // 2), nn.BatchNorm1d(made), nn.ReLU()]

        self.layers = nn.Sequential(
            *block(1, 24, 15, 2),
            *block(24, 32, 9, 2),
            *block(32, 48, 9, 2),
            *block(48, 48, 9, 2),
            *block(48, 64, 9, 2),
        )
        self.head = nn.Linear(128, len(data.LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(dim=1, keepdim=True)
        h = self.layers(x.unsqueeze(1) * 4)
        return self.head(torch.cat((h.mean(dim=2), h.amax(dim=2)), dim=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=HERE.parents[2] / "build" / "models" / "bearing")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(7)
    net = Net()
    print(f"{sum(p.numel() for p in net.parameters()):,} weights")
    # New windows for every epoch: there are as many as anybody wants.
    classifier.train(
        net,
        lambda epoch: data.windows(6000, data.TRAINED, 1000 + epoch),
        given.epochs,
        given.out / "checkpoint.pt",
    )
    model = classifier.with_temperature(net, data.windows(4000, data.TRAINED, 1))
    print(f"temperature {model.temperature:.2f}")
    path = given.out / "bearing.onnx"
    classifier.export(model, torch.from_numpy(data.windows(50, data.TRAINED, 2)[0]), "window", FACTS, path)
    sets = {"as trained, new windows": data.TRAINED, **data.HELD_OUT}
    for seed, (title, conditions) in enumerate(sets.items(), start=10):
        x, y = data.windows(2000, conditions, seed)
        classifier.report(title, classifier.run(path, x), y, data.LABELS)


if __name__ == "__main__":
    main()
