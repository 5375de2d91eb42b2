"""Train the keyword classifier and write it as ONNX. Run again, it goes on from the last epoch.

python keyword/train.py [--epochs 20] [--out build/models/keyword]
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache
from pathlib import Path

import data
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import classifier  # noqa: E402

FACTS = {
    "description": "Which word was spoken: yes, no, start, stop, up, down, left, right, or another.",
    "license": "Apache-2.0",
    "labels": list(data.LABELS),
    "input": "float32 [batch, 40, 98]: log-mel spectrogram of one second, 16,000 samples a second",
    "rate": data.RATE,
    "window": 0.025,
    "hop": 0.01,
}


class Net(nn.Module):
    """Convolutions over mels and time, then over time alone. How loud the loudest field is says nothing."""

    def __init__(self) -> None:
        super().__init__()

        def field(given: int, made: int, stride: tuple[int, int]) -> list[nn.Module]:
            return [nn.Conv2d(given, made, 3, stride, 1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]

        def line(given: int, made: int, wide: int) -> list[nn.Module]:
            return [nn.Conv1d(given, made, wide, 1, wide // 2, bias=False), nn.BatchNorm1d(made), nn.ReLU()]

        self.fields = nn.Sequential(*field(1, 16, (2, 2)), *field(16, 24, (2, 1)), *field(24, 32, (2, 2)))
        self.lines = nn.Sequential(*line(160, 80, 3), *line(80, 80, 5))
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(160, len(data.LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = (x - x.amax(dim=(1, 2), keepdim=True)).clamp(min=-12) / 4 + 1.5
        h = self.lines(self.fields(x.unsqueeze(1)).flatten(1, 2))
        return self.head(self.drop(torch.cat((h.mean(dim=2), h.amax(dim=2)), dim=1)))


@lru_cache(maxsize=4)
def part(number: int) -> classifier.Data:
    return data.examples(2500, data.TRAINED, 1000 + number)


def recordings(epoch: int) -> classifier.Data:
    """A quarter is new in every epoch: making a recording takes longer than learning from it."""
    sounds, labels = zip(*(part(epoch + i) for i in range(4)), strict=True)
    return masked(np.concatenate(sounds), np.random.default_rng(epoch)), np.concatenate(labels)


def masked(sounds: data.Floats, random: np.random.Generator) -> data.Floats:
    """Two stretches of time and two of mels taken out of each, so that no single trait of a voice decides."""
    for sound in sounds:
        mean = sound.mean()
        for field, widest in ((sound, 7), (sound, 7), (sound.T, 14), (sound.T, 14)):
            wide = random.integers(widest)
            first = random.integers(len(field) - wide)
            field[first : first + wide] = mean
    return sounds


def keep_some(path: Path) -> None:
    """Two held-out recordings of each class for a test, in eight bits to be small."""
    conditions = data.Conditions(data.NEW_ACCENTS, data.NEW_TIMBRES, data.SAID["new_words"], ratio=(20, 40))
    found: dict[int, list[np.ndarray]] = {label: [] for label in range(len(data.LABELS))}
    for wav, label in data.recordings(200, conditions, 3):
        samples = data.read_sound(wav, data.SAMPLES, {})
        if len(found[label]) < 2 and samples.any():
            found[label].append(np.round(128 + 127 * samples / np.abs(samples).max()).astype(np.uint8))
    samples = np.concatenate([np.stack(some) for some in found.values()])
    np.savez_compressed(path, samples=samples, labels=np.repeat(list(found), 2).astype(np.uint8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=HERE.parents[2] / "build" / "models" / "keyword")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    threadpool_limits(1)
    torch.manual_seed(7)
    net = Net()
    print(f"{sum(p.numel() for p in net.parameters()):,} weights")
    classifier.train(net, recordings, given.epochs, given.out / "checkpoint.pt")
    model = classifier.with_temperature(net, data.examples(3000, data.TRAINED, 1))
    print(f"temperature {model.temperature:.2f}")
    path = given.out / "keyword.onnx"
    classifier.export(model, torch.from_numpy(data.examples(50, data.TRAINED, 2)[0]), "sound", FACTS, path)
    sets = {"as trained, new recordings": data.TRAINED, **data.HELD_OUT}
    for seed, (title, conditions) in enumerate(sets.items(), start=10):
        x, y = data.examples(2000, conditions, seed)
        classifier.report(title, classifier.run(path, x), y, data.LABELS)
    keep_some(given.out / "held_out.npz")


if __name__ == "__main__":
    main()
