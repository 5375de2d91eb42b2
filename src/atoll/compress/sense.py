"""How touchy each part of a model is: how far its words move when that part alone goes to a smaller form.

Measured on the decoder itself, as the divergence of its chances from what they were, on some rows of the
calibration. Each part is rounded as the file would have it, and only the layers from there on are computed
again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from atoll.compress import forms
from atoll.compress.allot import Choice
from atoll.compress.calibrate import Seen, linear_names, walk
from atoll.compress.folder import fresh
from atoll.compress.gguf_file import padded
from atoll.compress.packing import pack
from atoll.compress.steps import Say, malformed

if TYPE_CHECKING:
    from atoll.compress.decoder import Decoder

FORMS = ("q3_k", "q4_0", "q4_k", "q5_k", "q6_k", "q8_0")
ROWS_MAX = 8
CHANCES_MAX = 1 << 26  # numbers that are kept of what the model says


def output_names(decoder: Decoder) -> list[str]:
    return ["model.embed_tokens", *(() if decoder.shape.is_tied else ("lm_head",))]


@torch.no_grad()
def sense(decoder: Decoder, rows: Tensor, group: int, say: Say) -> dict[str, tuple[Choice, ...]]:
    probe = _Probe(decoder, rows[torch.linspace(0, len(rows) - 1, min(ROWS_MAX, len(rows))).round().long()])
    outputs = output_names(decoder)
    total = len(outputs) + len(list(linear_names(decoder)))
    found: dict[str, tuple[Choice, ...]] = {}

    def treat(name: str, part: nn.Module, seen: Seen | None) -> None:
        say(f"part {len(found) + 1} of {total}: {name}")
        if seen is not None:
            probe.reach(int(name.split(".")[2]))
        found[name] = tuple(
            Choice(form, padded(forms.bytes_of(form, part.weight.numel())), probe.loss(name, rounded))
            for form, rounded in _ways(part.weight.float(), seen, group)
        )

    for name in outputs:
        treat(name, decoder.get_submodule(name), None)
    walk(decoder, rows, treat)
    return found


def _ways(weight: Tensor, seen: Seen | None, group: int) -> Iterator[tuple[str, Tensor]]:
    """The part in each form that can hold it, with the method that the file will be made by."""
    hessian = None if seen is None else seen.hessian / seen.count
    for form in dict.fromkeys(forms.fitting(form, weight.shape[1]) for form in FORMS):
        yield form, torch.from_numpy(forms.unpack(pack(weight, form, "gptq", group, hessian), form))


class _Probe:
    """The model's chances on some rows, and how far they go when a weight is another."""

    def __init__(self, decoder: Decoder, tokens: Tensor) -> None:
        self._decoder, self._tokens = decoder, tokens
        self._turned = decoder.angles(tokens.shape[1])
        self._stride = -(-tokens.numel() * decoder.shape.pieces // CHANCES_MAX)
        self._layer, self._inputs = 0, decoder.embed(tokens)
        self._before = self._chances(0, self._inputs)

    def reach(self, layer: int) -> None:
        """Weights before this layer will not change any more."""
        for passed in self._decoder.model.layers[self._layer : layer]:
            self._inputs = passed(self._inputs, self._turned)
        self._layer = layer

    def loss(self, name: str, weight: Tensor) -> float:
        """In nats a token."""
        part = self._decoder.get_submodule(name)
        held, part.weight = part.weight, nn.Parameter(weight, requires_grad=False)
        try:
            is_first = name == "model.embed_tokens"
            inputs = self._decoder.embed(self._tokens) if is_first else self._inputs
            after = self._chances(self._layer, inputs)
        finally:
            part.weight = held
        diverged = functional.kl_div(after, self._before, reduction="batchmean", log_target=True)
        return max(0.0, float(diverged))

    def _chances(self, layer: int, x: Tensor) -> Tensor:
        for one in self._decoder.model.layers[layer:]:
            x = one(x, self._turned)
        x = self._decoder.model.norm(x).flatten(0, 1)[:: self._stride]
        return functional.linear(x, self._decoder.output_weight).log_softmax(-1)


def save_choices(choices: Mapping[str, tuple[Choice, ...]], target: Path) -> None:
    told = {name: [[one.form, one.bytes, one.loss] for one in held] for name, held in choices.items()}
    with fresh(target) as partial:
        partial.write_text(json.dumps(told, indent=1))


def read_choices(path: Path) -> dict[str, tuple[Choice, ...]]:
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return {
            name: tuple(Choice(str(form), int(size), float(loss)) for form, size, loss in held)
            for name, held in told.items()
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise malformed(f'"{path.name}" says nothing of parts', f"{error}.") from error
