"""What a model needs layer by layer, from its file: what a split over nodes is planned by."""

from __future__ import annotations

from pathlib import Path

from atoll.registry.adding import ENGINE_BYTES, WORKING
from atoll.registry.formats.gguf import layer_bytes, read_tensors
from atoll.serving.fitting import Needs, Output, needs_of

OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


def needs(gguf: Path | None, whole: int, held: int) -> Needs:
    """Of the whole, whose context is `held` of it; and of its layers, where their file is here."""
    if gguf is None:
        return Needs(whole)
    tensors = read_tensors(gguf)[1]
    last = tensors.get(OUTPUT) or tensors.get(EMBEDDING)
    output = Output(last.bytes if last is not None else 0, OUTPUT not in tensors)
    return needs_of(whole, layer_bytes(tensors.values()), output, held, WORKING, ENGINE_BYTES)
