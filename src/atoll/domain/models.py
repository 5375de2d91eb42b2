"""What is said of models everywhere: what one can be asked for, and what goes in and comes out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

ADAPTERS_MAX = 32  # of one model


class Skill(StrEnum):
    """What a model can be asked for."""

    GENERATE = "generate"  # text, from text
    EMBED = "embed"  # vectors of texts
    INFER = "infer"  # tensors from tensors


@dataclass(frozen=True)
class TensorFacts:
    """An input or output: datatype in the words of the Open Inference Protocol; -1 is a size that is free."""

    name: str
    datatype: str
    shape: tuple[int, ...]
