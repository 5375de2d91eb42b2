"""ONNX: a graph with its weights as one Protocol Buffers message, some of them perhaps in files beside it.

Only the outline is read: who made it, which operators it needs, what goes in and comes out, and the shapes of
its weights. Files beside it have to be where the model may name them: below its own folder.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from atoll.domain.models import Skill, TensorFacts
from atoll.registry.formats.found import Found, main_kind
from atoll.registry.formats.protobuf import Stretch, fields, numbers, text
from atoll.registry.formats.source import Source

DATATYPES = {
    1: "FP32",
    2: "UINT8",
    3: "INT8",
    4: "UINT16",
    5: "INT16",
    6: "INT32",
    7: "INT64",
    8: "BYTES",
    9: "BOOL",
    10: "FP16",
    11: "FP64",
    12: "UINT32",
    13: "UINT64",
    16: "BF16",
}
KEPT_AS = {1: "fp32", 2: "int8", 3: "int8", 10: "fp16", 11: "fp64", 16: "bf16", 21: "int4", 22: "int4"}
DIMENSIONS_MAX = 64


@dataclass
class _Outline:
    """What has been met so far."""

    said: dict[str, Any] = field(default_factory=dict)
    operators: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    weights: set[str] = field(default_factory=set)
    inputs: list[TensorFacts] = field(default_factory=list)
    outputs: list[TensorFacts] = field(default_factory=list)
    free: dict[str, list[str]] = field(default_factory=dict)
    beside: set[str] = field(default_factory=set)
    has_graph: bool = False


def read_onnx(path: Path) -> Found:
    outline = _Outline()
    with Source(path) as source:
        for number, value in fields(source, Stretch(0, source.size)):
            if number == 2:
                outline.said["producer"] = text(source, value, "the producer's name")
            elif number == 3:
                outline.said["producer_version"] = text(source, value, "the producer's version")
            elif number == 7:
                _read_graph(source, _stretch(source, value), outline)
            elif number == 8:
                domain, version = _pair(source, value, 1, 2)
                outline.operators[domain or "ai.onnx"] = version if isinstance(version, int) else 0
            elif number == 14:
                key, said = _pair(source, value, 1, 2)
                outline.said.setdefault("metadata", {})[str(key)] = said
        if not outline.has_graph or not outline.operators:
            raise source.bad("it holds no graph of ONNX operators")
        size = source.size + sum(_size_beside(source, name) for name in sorted(outline.beside))
    return _describe(path, outline, size)


def _read_graph(source: Source, graph: Stretch, outline: _Outline) -> None:
    outline.has_graph = True
    for number, value in fields(source, graph):
        if number == 5:
            _read_weight(source, _stretch(source, value), outline)
        elif number in (11, 12):
            found = _read_tensor(source, _stretch(source, value), outline)
            (outline.inputs if number == 11 else outline.outputs).append(found)
    outline.inputs = [found for found in outline.inputs if found.name not in outline.weights]


def _read_weight(source: Source, weight: Stretch, outline: _Outline) -> None:
    shape: list[int] = []
    kind = 0
    held = 0
    for number, value in fields(source, weight):
        if number == 1:
            shape += numbers(source, value, "a shape")
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            outline.weights.add(text(source, value, "a weight's name"))
        elif number == 9:
            held = _stretch(source, value).length
        elif number == 13:
            key, said = _pair(source, value, 1, 2)
            if key == "location":
                outline.beside.add(str(said))
    if len(shape) > DIMENSIONS_MAX or any(size < 0 for size in shape):
        raise source.bad(f"the weight at byte {weight.begin} has a shape that cannot be")
    count = math.prod(shape)
    if held and count > 2 * held:
        raise source.bad(f"the weight at byte {weight.begin} claims {count} elements in {held} bytes")
    outline.counts[KEPT_AS.get(kind, "other")] += count


def _read_tensor(source: Source, described: Stretch, outline: _Outline) -> TensorFacts:
    """ValueInfoProto → TypeProto → its tensor → elem_type and shape → each dimension."""
    name, datatype = "", ""
    shape: list[int] = []
    free: list[str] = []
    for number, value in fields(source, described):
        if number == 1:
            name = text(source, value, "a name")
        elif number == 2:
            for kind, inner in fields(source, _stretch(source, value)):
                if kind == 1:
                    datatype, shape, free = _read_type(source, _stretch(source, inner))
    if free:
        outline.free[name] = free
    return TensorFacts(name, datatype, tuple(shape))


def _read_type(source: Source, tensor: Stretch) -> tuple[str, list[int], list[str]]:
    datatype = ""
    shape: list[int] = []
    free: list[str] = []
    for number, value in fields(source, tensor):
        if number == 1 and isinstance(value, int):
            datatype = DATATYPES.get(value, f"kind {value}")
        elif number == 2:
            for kind, dimension in fields(source, _stretch(source, value)):
                if kind == 1:
                    size, label = _pair(source, dimension, 1, 2)
                    is_fixed = isinstance(size, int) and 0 <= size < 2**63
                    shape.append(size if isinstance(size, int) and is_fixed else -1)
                    free += [] if is_fixed else [str(label or "")]
    return datatype, shape, free


def _pair(source: Source, message: int | Stretch, first: int, second: int) -> tuple[Any, Any]:
    found: dict[int, Any] = {}
    for number, value in fields(source, _stretch(source, message)):
        found[number] = value if isinstance(value, int) else text(source, value, "a word")
    return found.get(first), found.get(second)


def _stretch(source: Source, value: int | Stretch) -> Stretch:
    if not isinstance(value, Stretch):
        raise source.bad(f"a message before byte {source.at} is a number")
    return value


def _size_beside(source: Source, name: str) -> int:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts:
        raise source.bad(f'its weights are said to be at "{name}", outside of its folder')
    try:
        return (source.path.parent / place).stat().st_size
    except (OSError, ValueError) as error:
        raise source.bad(f'its weights are said to be in "{name}", which is not there') from error


def _describe(path: Path, outline: _Outline, size: int) -> Found:
    names = {found.name for found in outline.inputs}
    tokenizer = "tokenizer.json" if (path.parent / "tokenizer.json").is_file() else None
    reads_text = {"input_ids", "attention_mask"} <= names and tokenizer is not None
    widths = [found.shape[-1] for found in outline.outputs[:1] if found.shape and found.shape[-1] > 0]
    return Found(
        format="onnx",
        architecture=None,
        parameters=outline.counts.total(),
        quantization=main_kind(outline.counts),
        bytes=size,
        skills=frozenset({Skill.INFER, Skill.EMBED} if reads_text else {Skill.INFER}),
        dimensions=widths[0] if reads_text and widths else None,
        inputs=tuple(outline.inputs),
        outputs=tuple(outline.outputs),
        tokenizer=tokenizer if reads_text else None,
        details={**outline.said, "operators": outline.operators, "free": outline.free},
    )
