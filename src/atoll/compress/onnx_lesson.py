"""What a classifier learns of rows: what its teacher holds of each, and what is right where that is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from atoll.compress.onnx_graph import Array, Graph
from atoll.compress.onnx_net import Net
from atoll.training.loop import Task

JUDGED_AT_ONCE = 256
FLOOR = 1e-9  # of a chance, before its logarithm


@dataclass(frozen=True)
class Sample:
    """A row of each input, what its teacher holds of it, and what it is where that is known."""

    inputs: Mapping[str, Array]
    told: Array
    label: int | None

    def said(self) -> bytes:
        return b"\0".join([*(one.tobytes() for one in self.inputs.values()), str(self.label).encode()])


def stacked(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "inputs": {
            name: torch.from_numpy(np.stack([one.inputs[name] for one in samples]))
            for name in samples[0].inputs
        },
        "told": torch.from_numpy(np.stack([one.told for one in samples])),
        "labels": None
        if samples[0].label is None
        else torch.tensor([one.label for one in samples], dtype=torch.long),
    }


class Lesson:
    """`share` is how much the teacher counts where labels are known; where not, nothing else does."""

    def __init__(self, graph: Graph, output: str, is_chance: bool, share: float, temperature: float) -> None:
        self._share, self._temperature = share, temperature
        makers = {node.output[0]: node for node in graph.nodes()}
        is_softmax = output in makers and makers[output].op_type == "Softmax"
        self._read = makers[output].input[0] if is_softmax else output
        self._is_chance = is_chance and not is_softmax

    def task(self) -> Task:
        return Task(self._loss, self._judge, stacked)

    def of_teacher(self, samples: Sequence[Sample]) -> float:
        """What it would be judged to: 0 where it is the measure itself."""
        if samples[0].label is None:
            return 0.0
        right = [float(one.told[one.label]) for one in samples if one.label is not None]
        return float(-np.log(np.maximum(right, FLOOR)).mean())

    def agreement(self, net: Net, samples: Sequence[Sample]) -> dict[str, float]:
        """How often it says what its teacher says; and how often each is right, where that is known."""
        said = np.concatenate([logits.argmax(-1).numpy() for _, logits in self._answers(net, samples)])
        told = np.stack([one.told for one in samples]).argmax(-1)
        found = {"agreement": float((said == told).mean())}
        if samples[0].label is not None:
            labels = np.array([one.label for one in samples])
            found["accuracy_teacher"] = float((told == labels).mean())
            found["accuracy"] = float((said == labels).mean())
        return found

    def _loss(self, net: Net, batch: dict[str, Any]) -> Tensor:
        logits = self._logits(net, batch)
        apart = _apart(logits, batch["told"], self._temperature)
        if batch["labels"] is None:
            return apart
        return self._share * apart + (1 - self._share) * functional.cross_entropy(logits, batch["labels"])

    def _judge(self, net: Net, samples: Sequence[Sample]) -> float:
        total = 0.0
        for batch, logits in self._answers(net, samples):
            known = batch["labels"]
            apart = _apart(logits, batch["told"], 1.0)
            total += float(apart if known is None else functional.cross_entropy(logits, known)) * len(logits)
        return total / len(samples)

    def _answers(self, net: Net, samples: Sequence[Sample]) -> Iterator[tuple[dict[str, Any], Tensor]]:
        net.eval()
        with torch.no_grad():
            for first in range(0, len(samples), JUDGED_AT_ONCE):
                batch = stacked(samples[first : first + JUDGED_AT_ONCE])
                yield batch, self._logits(net, batch)

    def _logits(self, net: Net, batch: dict[str, Any]) -> Tensor:
        found: Tensor = net(batch["inputs"], self._read)
        return found.clamp_min(FLOOR).log() if self._is_chance else found


def _apart(logits: Tensor, told: Tensor, temperature: float) -> Tensor:
    """How far one is from the other, at a temperature that lets more of the teacher's doubts be seen."""
    wanted = functional.log_softmax(told.clamp_min(FLOOR).log() / temperature, -1)
    said = functional.log_softmax(logits / temperature, -1)
    return functional.kl_div(said, wanted, reduction="batchmean", log_target=True) * temperature**2
