"""What the linear layers of a network see, layer by layer, while earlier layers are being changed.

One pass over the calibration rows tells what each layer is called with besides its input, which does not
depend on weights; from then on only one layer runs at a time, on what the changed layers before it hand on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from atoll.training.batches import Row, stacked

AT_ONCE = 8
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "dense")
Call = tuple[tuple[Any, ...], dict[str, Any]]
Seen = dict[str, Any]  # by the name of a linear layer: the sums of the products of its inputs


def layers(net: Any) -> Any:
    """Of a decoder, or of an encoder."""
    return net.model.layers if hasattr(net, "model") else net.encoder.layer


def put_layers(net: Any, kept: Iterable[Any]) -> None:
    from torch.nn import ModuleList

    if hasattr(net, "model"):
        net.model.layers = ModuleList(kept)
    else:
        net.encoder.layer = ModuleList(kept)


def linears(layer: Any) -> dict[str, Any]:
    return {name: one for name, one in layer.named_modules() if name.rpartition(".")[2] in NAMES}


def layers_with_inputs(net: Any, rows: Sequence[Row]) -> Iterator[tuple[int, Any, Seen]]:
    """Each layer with what its linear layers see. It is changed before the next one is asked for."""
    import torch

    net.eval()
    with torch.no_grad():
        batches = [stacked(rows[at : at + AT_ONCE]) for at in range(0, len(rows), AT_ONCE)]
        calls = [_calls(net, batch) for batch in batches]
        hidden = [first for first, _ in calls]
        for number, layer in enumerate(layers(net)):
            seen: Seen = {}
            handles = [
                one.register_forward_pre_hook(_adding(seen, name)) for name, one in linears(layer).items()
            ]
            masks = [batch["attention_mask"].bool() for batch in batches]
            for batch_at, given in enumerate(hidden):
                seen["mask"] = masks[batch_at]
                _call(layer, given, calls[batch_at][1][number])
            seen.pop("mask")
            for handle in handles:
                handle.remove()
            yield number, layer, seen
            hidden = [_first(_call(layer, given, calls[at][1][number])) for at, given in enumerate(hidden)]


def _calls(net: Any, batch: dict[str, Any]) -> tuple[Any, list[Call]]:
    """What the first layer is given, and what else each layer is called with."""
    found: list[Call] = []
    given: list[Any] = []

    def note(layer: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        named = dict(named)
        first = positional[0] if positional else named.pop("hidden_states")
        if not found:
            given.append(first)
        found.append((positional[1:], named))

    handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers(net)]
    net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    for handle in handles:
        handle.remove()
    return given[0], found


def _call(layer: Any, given: Any, more: Call) -> Any:
    positional, named = more
    return layer(given, *positional, **named)


def _adding(seen: Seen, name: str) -> Any:
    def add(layer: Any, positional: tuple[Any, ...]) -> None:
        inputs = positional[0][seen["mask"]].float()  # rows were filled up with what nobody said
        products = inputs.T @ inputs
        seen[name] = seen[name] + products if name in seen else products

    return add


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output
