"""Adapters: small files (LoRA) that change what a model says, each made for one model and used with it.

Whether one fits is told from what both files say of their tensors, before an engine sees either: an engine
ends on one that does not, and takes the model along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.registry.formats.found import unusable
from atoll.registry.formats.gguf import Tensor, read_tensors
from atoll.registry.manifest import Kind, Manifest, Variant, adapter_name, name_from
from atoll.registry.store import Store

FILE = "adapter.gguf"
KINDS = ("F32", "F16", "BF16", "Q8_0")  # an engine crashes on others
HALVES = (".lora_a", ".lora_b")
IGNORED = "_norm.weight"  # by the engine, too
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Base:
    """The model that an adapter is made for, as far as it is known here."""

    name: str
    architecture: str | None
    skills: frozenset[Skill]
    file: Path | None  # of one of its variants, where that is here


def add_adapter(
    path: Path,
    base: Base,
    store: Store,
    *,
    name: str | None = None,
    licence: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Manifest:
    """The manifest of an adapter whose file is in the store from now on."""
    called = adapter_name(base.name, name or name_from(str(path.resolve())))
    found, tensors = read_tensors(path)
    if found.details.get("adapter") != "lora":
        raise unusable(path, "it is no LoRA adapter", hint="Convert it with convert_lora_to_gguf.py.")
    _pairs(path, tensors)
    if Skill.GENERATE not in base.skills:
        raise _misfit(called, f'model "{base.name}" does not generate text')
    if base.architecture is not None and found.architecture != base.architecture:
        raise _misfit(called, f"it is for {found.architecture}, and the model is {base.architecture}")
    if base.file is not None:
        check_fit(called, path, base.file)
    file = store.take_in(path, FILE, progress)
    variant = Variant("lora", "gguf", FILE, (file,), memory_bytes=file.bytes + file.bytes // 10)
    return Manifest(
        name=called,
        kind=Kind.ADAPTER,
        variants=(variant,),
        skills=(),
        architecture=found.architecture,
        parameters=found.parameters,
        licence=licence or found.licence,
        source=f"file:{path.name}",
    )


def check_fit(name: str, adapter: Path, base: Path) -> None:
    """DataError `adapter-misfit` where the model lacks a tensor that it changes, or has another shape."""
    (found, tensors), (model, weights) = read_tensors(adapter), read_tensors(base)
    if found.architecture != model.architecture:
        raise _misfit(name, f"it is for {found.architecture}, and the model is {model.architecture}")
    for changed, (first, second) in _pairs(adapter, tensors).items():
        weight = weights.get(changed)
        if weight is None:
            raise _misfit(name, f'it changes "{changed}", which the model does not have')
        # Of the table of tokens the first half is kept the other way round.
        ends = (second[1], first[1]) if changed.endswith("token_embd.weight") else (first[0], second[1])
        if ends != weight.shape[:2]:
            raise _misfit(name, f'it changes "{changed}" of {ends}, and the model has {weight.shape[:2]}')


def _pairs(path: Path, tensors: Tensors) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The shapes of both halves, by the name of the tensor that they change."""
    halves: dict[str, dict[str, tuple[int, ...]]] = {}
    for tensor in tensors.values():
        name, half = tensor.name[: -len(HALVES[0])], tensor.name[-len(HALVES[0]) :]
        if tensor.name.endswith(IGNORED):
            continue
        if half not in HALVES or tensor.kind not in KINDS or len(tensor.shape) < 2:
            raise unusable(path, f'its tensor "{tensor.name}" ({tensor.kind}) is of no LoRA adapter')
        halves.setdefault(name, {})[half] = tensor.shape
    found = {name: tuple(both.get(half, ()) for half in HALVES) for name, both in halves.items()}
    pairs = {name: (both[0], both[1]) for name, both in found.items()}
    for name, (first, second) in pairs.items():
        is_transposed = name.endswith("token_embd.weight")
        if not first or not second or (first[0 if is_transposed else 1] != second[0]):
            raise unusable(path, f'the halves of its tensor "{name}" do not belong together')
    if not pairs:
        raise unusable(path, "it has no tensors")
    return pairs


def _misfit(name: str, why: str) -> DataError:
    return DataError(
        "adapter-misfit",
        f'adapter "{name}" does not fit its model',
        detail=f"{why[:1].upper()}{why[1:]}.",
        hint="Add it to the model that it was made for.",
    )
