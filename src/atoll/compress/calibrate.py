"""The way of calibration texts through a decoder: one layer at a time, each seeing what the layers before it
became.

Kept in memory are the inputs of one layer and the sums of its linear parts; nothing grows with the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from atoll.domain.errors import DataError

if TYPE_CHECKING:
    from atoll.compress.decoder import Decoder, Layer

Say = Callable[[str], None]
STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
TOKENS_MIN = 512
TEXT_BYTES_MAX = 64 * 1024**2
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Seen:
    """What came into a linear part."""

    hessian: Tensor  # the sum of inputs times inputs
    count: int


def read_rows(path: Path, tokenizer_file: Path, length: int, count: int) -> Tensor:
    """A text as rows of tokens; where there are more than wanted, they are taken from all over it."""
    from atoll.compress.vocabulary import read_tokenizer

    try:
        if path.stat().st_size > TEXT_BYTES_MAX:
            raise DataError("calibration-refused", f'cannot calibrate with "{path.name}": more than 64 MB')
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            "calibration-refused", f'cannot calibrate with "{path.name}": it is no text', detail=f"{error}."
        ) from error
    tokens = read_tokenizer(tokenizer_file).encode(text, add_special_tokens=False).ids
    if len(tokens) < max(TOKENS_MIN, length):
        raise DataError(
            "calibration-too-small",
            f'cannot calibrate with "{path.name}": it has {len(tokens)} tokens',
            hint=f"Give a text of at least {max(TOKENS_MIN, length)}; thirty times as much is better.",
        )
    rows = torch.tensor(tokens[: len(tokens) // length * length]).view(-1, length)
    chosen = torch.linspace(0, len(rows) - 1, min(count, len(rows))).round().long()
    return rows[chosen]


class _Enough(Exception):
    """What came in was seen; what would come of it is not needed."""


@torch.no_grad()
def walk(
    decoder: Decoder,
    rows: Tensor,
    treat: Callable[[str, nn.Linear, Seen], None],
    say: Say = lambda word: None,
) -> None:
    """`treat` may change a linear part's weight; whatever comes after it sees the change."""
    turned = decoder.angles(rows.shape[1])
    batch = max(1, BATCH_TOKENS // rows.shape[1])
    held = [decoder.embed(piece) for piece in rows.split(batch)]
    for number, layer in enumerate(decoder.model.layers):
        parts = dict(layer.linears())
        for stage in STAGES:
            say(f"layer {number + 1} of {len(decoder.model.layers)}: {stage[0]}")
            seen = _watch(layer, parts[stage[0]], held, turned)
            for name in stage:
                treat(f"model.layers.{number}.{_place(name)}", parts[name], seen)
        held = [layer(x, turned) for x in held]


def _watch(layer: Layer, part: nn.Linear, held: list[Tensor], turned: Tensor) -> Seen:
    total = torch.zeros(part.in_features, part.in_features)
    count = 0

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal count
        flat = inputs[0].flatten(0, -2)
        total.addmm_(flat.T, flat)
        count += len(flat)
        raise _Enough

    hook = part.register_forward_pre_hook(note)
    try:
        for x in held:
            with suppress(_Enough):
                layer(x, turned)
    finally:
        hook.remove()
    if not torch.isfinite(total).all():
        raise DataError("model-unusable", "cannot calibrate: the model makes values that are no numbers")
    return Seen(total, count)


def _place(name: str) -> str:
    return f"{'self_attn' if name[0] in 'qkvo' else 'mlp'}.{name}"


def linear_names(decoder: Decoder) -> Iterator[str]:
    for number, layer in enumerate(decoder.model.layers):
        for name, _ in layer.linears():
            yield f"model.layers.{number}.{_place(name)}"
