"""What training takes of memory, counted from the tensors that there are, beside what full fine-tuning takes.

Weights, gradients and the optimizer's two averages follow from sizes; what is kept for gradients is
measured on the longest row, each piece of storage once, and counted for all rows of a step.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.training.loop import usual_loss

FLOAT_BYTES = 4
AVERAGES = 2  # that AdamW has of each weight


@dataclass(frozen=True)
class Memory:
    weights: int
    gradients: int
    optimizer: int
    kept_for_gradients: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def told(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def measured(net: Any, row: dict[str, Any], rows: int) -> Memory:
    """Of training that part of the network that wants gradients."""
    learned = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    return Memory(
        weights=_bytes_of(net),
        gradients=learned * FLOAT_BYTES,
        optimizer=learned * FLOAT_BYTES * AVERAGES,
        kept_for_gradients=_kept(net, row) * rows,
    )


def full(net: Any, row: dict[str, Any], rows: int) -> Memory:
    """Of training every weight of a network in 32 bits, which wants gradients for all of them."""
    wishes = [(weight, weight.requires_grad) for weight in net.parameters()]
    try:
        for weight, _ in wishes:
            weight.requires_grad_(True)
        return measured(net, row, rows)
    finally:
        for weight, wish in wishes:
            weight.requires_grad_(wish)


def full_at_least(weights: int, batch_kept: int) -> Memory:
    """Of a network that is not here in 32 bits: what is kept is not measured, but known to be no less."""
    return Memory(weights * FLOAT_BYTES, weights * FLOAT_BYTES, weights * FLOAT_BYTES * AVERAGES, batch_kept)


def peak_bytes() -> int:
    """The most that this process has had in memory at once."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _bytes_of(net: Any) -> int:
    sizes = {weight.data_ptr(): weight.numel() * weight.element_size() for weight in net.parameters()}
    sizes |= {one.data_ptr(): one.numel() * one.element_size() for one in net.buffers()}
    return sum(sizes.values())


def _kept(net: Any, batch: dict[str, Any]) -> int:
    import torch

    own = {weight.untyped_storage().data_ptr() for weight in net.parameters()}
    found: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    net.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = usual_loss(net, batch)
    del value
    return sum(found.values())
