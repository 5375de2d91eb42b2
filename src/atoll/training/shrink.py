"""Structure that goes: layers, channels of the feed-forward parts, heads. What is left is a smaller model.

Channels go by how much they hand on. What is left of the matrix behind them is fitted to what it made before,
by least squares on what was seen. Heads go with all that share their keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from atoll.domain.errors import DataError
from atoll.training.batches import Row
from atoll.training.loop import judge
from atoll.training.watch import layers, layers_with_inputs, put_layers

METHODS = ("layers", "width", "heads")
MULTIPLE = 32  # of the inner width: blocks of four bits are as long
DAMPING = 1e-4
JUDGED_MAX = 64
INNER = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # the last one leads back
ENCODERS_INNER = ("intermediate.dense", "output.dense")


def drop_layers(net: Any, rows: Sequence[Row], share: float, say: Callable[[str], None]) -> list[int]:
    """Those without which the loss is least, one after the other; which are left."""
    whole = list(layers(net))
    kept = list(range(len(whole)))
    count = len(whole) - max(1, round(len(whole) * (1 - share)))
    if count == 0:
        raise _too_little("layers")
    for _ in range(count):
        losses = {}
        for one in kept:
            left = [at for at in kept if at != one]
            put_layers(net, (whole[at] for at in left))
            net.config.num_hidden_layers = len(left)
            losses[one] = judge(net, rows[:JUDGED_MAX])
        gone = min(losses, key=lambda one: losses[one])
        kept.remove(gone)
        say(f"layer {gone} goes: {losses[gone]:.4f}")
    keep_layers(net, whole, kept)
    return kept


def keep_layers(net: Any, whole: Sequence[Any], kept: Sequence[int]) -> None:
    put_layers(net, (whole[at] for at in kept))
    for number, layer in enumerate(layers(net)):
        if hasattr(layer, "self_attn"):
            layer.self_attn.layer_idx = number
    if getattr(net.config, "layer_types", None):
        net.config.layer_types = [net.config.layer_types[at] for at in kept]
    net.config.num_hidden_layers = len(kept)


def narrow(net: Any, rows: Sequence[Row], share: float, say: Callable[[str], None]) -> int:
    """Every feed-forward part has so many channels less, rounded to blocks; how many are left."""
    width: int = net.config.intermediate_size
    left = max(MULTIPLE, round(width * (1 - share) / MULTIPLE) * MULTIPLE)
    if left >= width:
        raise _too_little("channels")
    for number, layer, seen in layers_with_inputs(net, rows):
        *ups, down = ENCODERS_INNER if hasattr(layer, "intermediate") else INNER
        back = layer.get_submodule(down)
        kept = _strongest(back.weight, seen[down], left, 1)
        for name in ups:
            _cut_outputs(layer.get_submodule(name), kept)
        _cut_inputs(back, seen[down], kept)
        say(f"layer {number}: {width} channels, {left} are left")
    net.config.intermediate_size = left
    return left


def drop_heads(net: Any, rows: Sequence[Row], share: float, say: Callable[[str], None]) -> int:
    """Of each layer so many groups of heads go, each with its keys and values; how many heads are left."""
    config = net.config
    size = layers(net)[0].self_attn.head_dim
    groups, heads = config.num_key_value_heads, config.num_attention_heads
    left: int = max(1, round(groups * (1 - share)))
    each: int = heads // groups
    if left >= groups:
        raise _too_little("groups of heads")
    for number, layer, seen in layers_with_inputs(net, rows):
        part = layer.self_attn
        kept = _strongest(part.o_proj.weight, seen["self_attn.o_proj"], left * each * size, each * size)
        first = kept.reshape(left, each, size)[:, 0]  # of the heads that share keys and values
        shared = first // (each * size) * size + first % size
        _cut_outputs(part.q_proj, kept)
        for name in ("k_proj", "v_proj"):
            _cut_outputs(getattr(part, name), shared.flatten())
        _cut_inputs(part.o_proj, seen["self_attn.o_proj"], kept)
        say(f"layer {number}: {heads} heads, {left * each} are left")
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = left * each, left, size
    return left * each


def _strongest(weight: Any, seen: Any, count: int, together: int) -> Any:
    """Inputs that hand on most, in their order, where so many that lie together stay or go together."""
    strength = (seen.diagonal() * (weight**2).sum(0)).reshape(-1, together).sum(1)
    groups = strength.topk(count // together).indices.sort().values
    return (groups[:, None] * together + _range(together)).flatten()


def _range(count: int) -> Any:
    import torch

    return torch.arange(count)


def _cut_outputs(linear: Any, kept: Any) -> None:
    import torch

    linear.weight = torch.nn.Parameter(linear.weight[kept].detach().clone())
    if linear.bias is not None:
        linear.bias = torch.nn.Parameter(linear.bias[kept].detach().clone())
    linear.out_features = len(kept)


def _cut_inputs(linear: Any, seen: Any, kept: Any) -> None:
    """What is left makes as much as it can of what the whole made."""
    import torch

    seen = seen.double()
    inner = seen[kept][:, kept]
    inner.diagonal().add_(DAMPING * inner.diagonal().mean() + 1e-12)
    fitted = torch.linalg.solve(inner, seen[kept] @ linear.weight.double().T).T
    linear.weight = torch.nn.Parameter(fitted.float().contiguous())
    linear.in_features = len(kept)


def _too_little(what: str) -> DataError:
    return DataError(
        "prune-nothing", f"so small a share is less than one of the {what}", hint="Raise --share."
    )
