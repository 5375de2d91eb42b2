"""Making a manifest of a file or folder: read what it says of itself, take its files in, estimate its needs.

Several GGUF files in one folder are variants of one model; everything else is one variant.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from atoll.domain.errors import DataError
from atoll.registry.formats.found import Found
from atoll.registry.formats.read import read_model
from atoll.registry.manifest import File, Manifest, Variant, check_name, name_from
from atoll.registry.store import Store

ENGINE_BYTES = 64 * 1024**2
CACHED_BYTES = 2  # of each key's and value's number in a language model's context
WORKING = 0.1  # memory besides the weights, as a part of them
FILES_MAX = 256
ALONGSIDE = ("tokenizer.json", "tokenizer_config.json", "config.json", "labels.json")


def add(
    path: Path,
    store: Store,
    *,
    name: str | None = None,
    licence: str | None = None,
    source: str | None = None,
    progress: Callable[[int], None] = lambda count: None,
) -> Manifest:
    """The manifest of a model whose files are in the store from now on."""
    called = check_name(name or name_from(str(path.resolve())))
    found = {place: read_model(place) for place in _models_in(path)}
    first = next(iter(found.values()))
    if not first.skills:
        raise DataError(
            "model-no-skill",
            f'cannot serve "{path.name}" by itself',
            detail=f"It is a {first.details.get('type', first.format)}, not a whole model.",
            hint="An adapter is added to its model: --adapter-of MODEL",
        )
    variants = tuple(_variant(one, place, path, store, progress) for place, one in found.items())
    if len({variant.name for variant in variants}) < len(variants):
        raise DataError("model-twice", f'the folder "{path.name}" holds two variants of one quantization')
    return Manifest(
        name=called,
        variants=variants,
        skills=tuple(sorted(first.skills)),
        architecture=first.architecture,
        parameters=first.parameters,
        context_tokens=first.context_tokens,
        inputs=first.inputs,
        outputs=first.outputs,
        licence=licence or first.licence,
        source=source or f"file:{path.name}",
    )


def size_of(path: Path) -> int:
    """How many bytes will be read."""
    return sum(file.stat().st_size for place in _models_in(path) for file in _files_of(place, path))


def _models_in(path: Path) -> list[Path]:
    several = sorted(path.glob("*.gguf")) if path.is_dir() else []
    return several if len(several) > 1 else [path]


def _files_of(place: Path, path: Path) -> list[Path]:
    """The files that belong to a model: those of its folder, or what lies beside a file and explains it."""
    if place.is_dir():
        visible = (file for file in place.rglob("*") if file.is_file() and file.name[0] != ".")
        files = list(islice(visible, FILES_MAX + 1))
        if len(files) > FILES_MAX:
            raise DataError(
                "model-too-many-files",
                f'the folder "{place.name}" has more than {FILES_MAX} files',
                hint="Name the folder of the model alone.",
            )
        return sorted(files)
    beside = [place.with_name(name) for name in ALONGSIDE] if place.suffix == ".onnx" else []
    return [place, *(file for file in beside if file.is_file())]


def _variant(found: Found, place: Path, path: Path, store: Store, progress: Callable[[int], None]) -> Variant:
    root = place if place.is_dir() else place.parent
    files: list[File] = []
    for file in _files_of(place, path):
        # What a file was called where it came from makes no other version of it.
        name = f"model{file.suffix}" if file == place else str(file.relative_to(root))
        files.append(store.take_in(file, name, progress))
    entry = _entry(place, [file.path for file in files])
    memory_bytes, token_bytes = estimate_memory(found)
    return Variant(
        name=variant_name(found),
        format=found.format,
        entry=entry,
        files=tuple(files),
        memory_bytes=memory_bytes,
        token_bytes=token_bytes,
        quantization=found.quantization,
    )


def _entry(place: Path, paths: list[str]) -> str:
    if not place.is_dir():
        return f"model{place.suffix}"
    for ending in (".gguf", ".onnx", ".safetensors"):
        for path in paths:
            if path.endswith(ending):
                return path
    raise DataError("model-unusable", f'the folder "{place.name}" has no file to load')


def variant_name(found: Found) -> str:
    return (found.quantization or found.format).lower()


def estimate_memory(found: Found) -> tuple[int, int]:
    """What it will take in memory: weights with working space, and each token of context."""
    if found.format != "gguf":
        return found.bytes * 2 + ENGINE_BYTES // 2, 0
    token_bytes = CACHED_BYTES * max(0, int(found.details.get("cached") or 0))
    return found.bytes + int(found.bytes * WORKING) + ENGINE_BYTES, token_bytes
