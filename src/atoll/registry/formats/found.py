"""What is found in a model's files, whatever their format; and what is said of files that are no good.

Everything here is the file's own word. Whether an engine can run it shows when it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.domain.errors import DataError
from atoll.domain.models import Skill, TensorFacts


@dataclass(frozen=True)
class Found:
    """A model, as its files describe it. What they do not say is None or empty."""

    format: str
    """gguf, onnx or safetensors."""
    architecture: str | None
    parameters: int
    quantization: str | None
    """How most of the parameters are kept: `Q4_K_M`, `int8`, `fp16`."""
    bytes: int
    """The size of the files that hold the weights."""
    skills: frozenset[Skill]
    """A guess: generate, embed, infer; nothing where the file is no model by itself (an adapter)."""
    context_tokens: int | None = None
    dimensions: int | None = None
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    tokenizer: str | None = None
    has_chat_template: bool = False
    licence: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def unusable(path: Path, why: str, hint: str | None = None) -> DataError:
    return DataError(
        "model-unusable",
        f'cannot use the model file "{path.name}"',
        detail=f"{why[:1].upper()}{why[1:]}.",
        hint=hint or "Copy it again from where it came; it may be cut off or changed.",
    )


def main_kind(counts: Mapping[str, int]) -> str | None:
    """The kind of which there are most."""
    return max(counts, key=lambda kind: counts[kind]) if counts else None
