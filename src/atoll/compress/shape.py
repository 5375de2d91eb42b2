"""What a config.json says a decoder looks like, in words that decoder.py and the GGUF writer share.

Everything that would change what the model computes is either understood here or refused: a field that is
passed over makes a file that runs and talks nonsense.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import DataError

FAMILIES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GemmaForCausalLM": "gemma",
}
ACTIVATIONS = {
    "silu": "silu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu",
    "gelu_new": "gelu",
}
LAYERS_MAX, WIDTH_MAX, PIECES_MAX = 1024, 65_536, 1_048_576


@dataclass(frozen=True)
class Turning:
    """How positions turn: the base, and Llama 3's stretching of the slow turns where `factor` is not 1."""

    base: float = 10_000.0
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192

    def slowed(self, head: int) -> list[float]:
        """By how much each pair of a head turns more slowly."""
        found = []
        for pair in range(0, head, 2):
            wave = 2 * math.pi * self.base ** (pair / head)
            share = (self.original / wave - self.low) / (self.high - self.low)
            share = min(1.0, max(0.0, share))
            found.append(1 / ((1 - share) / self.factor + share))
        return found


@dataclass(frozen=True)
class Shape:
    """The sizes that make a decoder; names of its weights follow from them."""

    family: str
    pieces: int
    context: int
    width: int
    inner: int
    layers: int
    heads: int
    shared_heads: int
    head: int
    epsilon: float
    turning: Turning
    activation: str = "silu"
    is_tied: bool = False
    has_bias: bool = False
    has_output_bias: bool = False

    @property
    def has_head_norms(self) -> bool:
        return self.family == "qwen3"

    @property
    def is_gemma(self) -> bool:
        return self.family == "gemma"


def read_shape(config: Mapping[str, Any]) -> Shape:
    """DataError `model-unsupported` where it is of another kind, `model-unusable` where a size cannot be."""
    names = config.get("architectures") or ["none"]
    family = FAMILIES.get(str(names[0]))
    if family is None:
        raise unsupported(f'its architecture is "{names[0]}"', f"Known are {', '.join(sorted(FAMILIES))}.")
    if config.get("quantization_config"):
        raise unsupported("it is quantized already", "Begin with the weights in 16 or 32 bits.")
    if config.get("mlp_bias"):
        raise unsupported("its feed-forward layers have biases")
    if config.get("sliding_window") and config.get("use_sliding_window", names[0] == "MistralForCausalLM"):
        raise unsupported("its attention has a sliding window")
    activation = config.get("hidden_activation") or config.get("hidden_act", "silu")
    if activation not in ACTIVATIONS:
        raise unsupported(f'its activation is "{activation}"')
    heads, width = _size(config, "num_attention_heads", 4096), _size(config, "hidden_size", WIDTH_MAX)
    has_bias = bool(config.get("attention_bias", family == "qwen2"))
    shape = Shape(
        family=family,
        pieces=_size(config, "vocab_size", PIECES_MAX),
        context=_size(config, "max_position_embeddings", 2**24),
        width=width,
        inner=_size(config, "intermediate_size", 4 * WIDTH_MAX),
        layers=_size(config, "num_hidden_layers", LAYERS_MAX),
        heads=heads,
        shared_heads=_size(config, "num_key_value_heads", 4096, heads),
        head=_size(config, "head_dim", 4096, max(1, width // heads)),
        epsilon=float(config.get("rms_norm_eps", 1e-6)),
        turning=_turning(config),
        activation=ACTIVATIONS[activation],
        is_tied=bool(config.get("tie_word_embeddings", family == "gemma")),
        has_bias=has_bias,
        has_output_bias=has_bias and family == "llama",
    )
    if shape.heads % shape.shared_heads or shape.head % 2:
        raise DataError("model-unusable", f"cannot share {shape.shared_heads} heads among {shape.heads}")
    return shape


def unsupported(what: str, hint: str | None = None) -> DataError:
    return DataError("model-unsupported", f"cannot compress this model: {what}", hint=hint)


def _turning(config: Mapping[str, Any]) -> Turning:
    told = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    base = float(told.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    kind = told.get("rope_type", told.get("type", "default"))
    if kind == "default":
        return Turning(base)
    if kind != "llama3":
        raise unsupported(f'its positions are stretched by "{kind}"', 'Known are "default" and "llama3".')
    return Turning(
        base,
        float(told["factor"]),
        float(told["low_freq_factor"]),
        float(told["high_freq_factor"]),
        int(told["original_max_position_embeddings"]),
    )


def _size(config: Mapping[str, Any], key: str, most: int, otherwise: int | None = None) -> int:
    value = config.get(key)
    value = otherwise if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= most:
        raise DataError("model-unusable", f"config.json has no sensible {key}", detail=f"It says {value!r}.")
    return value
