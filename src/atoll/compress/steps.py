"""The steps that a recipe may name, each a function that reads a folder or file and writes a new one.

`step(source, target, options, say)`: the source is not touched; the target is there in the end, or nothing
of it; the options are the step's own to check; `say` tells a person how far it is. What it returns is shown
and kept. Steps are looked up only when they are run, since most of them need torch.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from atoll.domain.errors import ConfigError, DataError

Say: TypeAlias = Callable[[str], None]
Facts: TypeAlias = Mapping[str, Any]
Step: TypeAlias = Callable[[Path, Path, Mapping[str, Any], Say], Facts]
Kind = TypeVar("Kind")

STEPS = {
    "quantize": "atoll.compress.quantize:quantize",
    "quantize-onnx": "atoll.compress.onnx_quantize:quantize",
    "export": "atoll.compress.quantize:export",
    "prune": "atoll.compress.learned:prune",
    "distill": "atoll.compress.learned:distill",
    "tune": "atoll.compress.learned:tune",
}
ONNX_STEP = "quantize-onnx"
ONNX_FORMS = ("int8", "int8-static", "q4")
NEEDED = ("torch", "safetensors", "tokenizers", "gguf", "onnx")


def find_step(name: str) -> Step:
    if name not in STEPS:
        raise malformed(f'there is no step "{name}"', f"Steps are {', '.join(sorted(STEPS))}.")
    require(*(("onnx",) if name == ONNX_STEP else ()))
    module, _, function = STEPS[name].partition(":")
    found: Step = getattr(importlib.import_module(module), function)
    return found


def require(*names: str) -> None:
    """ConfigError where something of the extra is not installed."""
    for name in names or NEEDED:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                "compress-missing",
                f"cannot compress: {name} is not installed",
                hint="pip install 'atoll[compress]'",
            )


def read_options(kind: type[Kind], told: Mapping[str, Any]) -> Kind:
    """A dataclass of options; a word that it does not know, or a value of another kind, is refused."""
    hints = typing.get_type_hints(kind)
    for name, value in told.items():
        if name not in hints:
            raise malformed(f'there is no option "{name}"', f"Options are {', '.join(sorted(hints))}.")
        if not _is_of(value, hints[name]):
            raise malformed(f'option "{name}" cannot be {value!r}')
    required = [field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in told]:
        raise malformed(f'option "{missing[0]}" is missing')
    return kind(**told)


def malformed(what: str, hint: str | None = None) -> DataError:
    return DataError("recipe-malformed", f"cannot follow the recipe: {what}", hint=hint)


def _is_of(value: Any, hint: Any) -> bool:
    told = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    kinds = [typing.get_origin(kind) or kind for kind in told]
    if isinstance(value, bool):
        return bool in kinds
    return any(isinstance(value, (int, float) if kind is float else kind) for kind in kinds)
