"""What the classifiers share: training with a seed, a temperature for honest probabilities, the ONNX file.

The file takes one float32 input of any batch size and gives `probabilities`; the names of the classes are in
its metadata, as JSON under `labels`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

Data = tuple[NDArray[np.float32], NDArray[np.int64]]


class Probabilities(nn.Module):
    """The net, its logits divided by the temperature that fits the validation data best."""

    def __init__(self, net: nn.Module, temperature: float) -> None:
        super().__init__()
        self.net, self.temperature = net, temperature

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(self.net(x) / self.temperature, dim=-1)


def train(
    net: nn.Module,
    make: Callable[[int], Data],
    epochs: int,
    kept: Path,
    *,
    batch: int = 64,
    rate: float = 2e-3,
    seed: int = 7,
) -> None:
    """Epoch by epoch on what `make` gives for each; goes on from the file `kept` if a run was broken off."""
    net.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.01)
    first = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        first = state["epoch"]
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    for epoch in range(first, epochs):
        torch.manual_seed(seed + epoch)
        x, y = (torch.from_numpy(array) for array in make(epoch))
        total = 0.0
        for start, chosen in enumerate(torch.randperm(len(x)).split(batch)):
            done = (epoch + start * batch / len(x)) / epochs
            optimizer.param_groups[0]["lr"] = rate * min(1.0, done * 20 + 0.05) * (1 - done)
            loss = functional.cross_entropy(net(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1}/{epochs}  loss {total / len(x):.4f}", flush=True)
        state = {"epoch": epoch + 1, "net": net.state_dict(), "optimizer": optimizer.state_dict()}
        partial = kept.with_suffix(".part")
        torch.save(state, partial)
        partial.replace(kept)
    net.eval()


def with_temperature(net: nn.Module, validation: Data) -> Probabilities:
    x, y = (torch.from_numpy(array) for array in validation)
    with torch.no_grad():
        logits = net(x)
    choices = np.geomspace(0.5, 4, 80).tolist()
    return Probabilities(
        net, min(choices, key=lambda t: functional.cross_entropy(logits / t, y).item())
    ).eval()


def export(
    model: Probabilities, examples: Tensor, name: str, facts: Mapping[str, object], path: Path
) -> None:
    """Write the file from two examples, and hold it against the net with all of them."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of packages that are not needed
    batch = torch.export.Dim("batch", min=1, max=65536)
    program = torch.onnx.export(
        model,
        (examples[:2],),
        dynamo=True,
        input_names=[name],
        output_names=["probabilities"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    del proto.metadata_props[:]
    for node in proto.graph.node:  # where each node came from: half of a small file
        del node.metadata_props[:]
        node.doc_string = ""
    del proto.graph.value_info[:]
    proto.producer_name, proto.doc_string = "atoll", str(facts["description"])
    onnx.helper.set_model_props(proto, {key: as_text(value) for key, value in facts.items()})
    onnx.checker.check_model(proto, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, path)
    with torch.no_grad():
        far = np.abs(run(path, examples.numpy()) - model(examples).numpy()).max()
    assert far < 1e-5, f"the file differs from the net by {far}"
    print(f"{path.name}: {path.stat().st_size:,} bytes, differs from torch by at most {far:.1e}")


def as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def run(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(answer)


def report(
    title: str, probabilities: NDArray[np.float32], labels: NDArray[np.int64], names: tuple[str, ...]
) -> None:
    """Accuracy, calibration error (ten bins) and which class was taken for which."""
    guesses, sure = probabilities.argmax(1), probabilities.max(1)
    right = guesses == labels
    bins = np.minimum((sure * 10).astype(int), 9)
    gaps = [abs(right[bins == b].mean() - sure[bins == b].mean()) * (bins == b).mean() for b in set(bins)]
    print(f"\n{title}: accuracy {right.mean():.3f}, calibration error {sum(gaps):.3f}, {len(labels)} rows")
    table = np.zeros((len(names), len(names)), int)
    np.add.at(table, (labels, guesses), 1)
    for name, row in zip(names, table, strict=True):
        print(f"  {name:>12}  " + " ".join(f"{n:5d}" for n in row))
