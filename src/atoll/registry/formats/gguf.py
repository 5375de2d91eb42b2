"""GGUF: llama.cpp's one file with everything: keys and values, a list of tensors, the tensors themselves.

Reads up to the end of the list, and checks that the file is long enough for every tensor. Versions 2 and 3,
little end first.
"""

from __future__ import annotations

import math
import re
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.domain.models import Skill
from atoll.registry.formats.found import Found, main_kind
from atoll.registry.formats.source import Source

MAGIC = b"GGUF"
VALUES_MAX = 65_536
TENSORS_MAX = 65_536
ARRAY_LENGTH_MAX = 4_000_000
HEADER_BYTES_MAX = 256 * 1024**2
NAME_BYTES_MAX = 1024
DIMENSIONS_MAX = 4
ALIGNMENT_MAX = 1024**2
SHORT_LIST = 1024  # is read; of a longer one only the length is told
TEXT, ARRAY = 8, 9
LAYER = re.compile(r"blk\.(\d{1,6})\.")
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
# fmt: off
KINDS = {  # of a tensor: its name, and how many elements are kept in how many bytes
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 30: ("BF16", 1, 2), 28: ("F64", 1, 8), 24: ("I8", 1, 1),
    25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56), 34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}
MIXES = {  # what `general.file_type` adds to the kind that most tensors have
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
}
# fmt: on


@dataclass(frozen=True)
class Tensor:
    """An entry of the list: its shape has the side that lies together first."""

    name: str
    shape: tuple[int, ...]
    kind: str
    bytes: int = 0  # none where the kind is not known


def read_gguf(path: Path) -> Found:
    return read_tensors(path)[0]


def read_tensors(path: Path) -> tuple[Found, dict[str, Tensor]]:
    """What the file says of itself, and its tensors by name."""
    with Source(path) as source:
        if source.take(4, "the first word") != MAGIC:
            raise source.bad("it does not begin as a GGUF file does")
        if (version := source.number("I", "the version")) not in (2, 3):
            raise source.bad(f"it is of GGUF version {version}", hint="Versions 2 and 3 are understood.")
        tensors, values = (
            source.number("Q", "the count of tensors"),
            source.number("Q", "the count of values"),
        )
        if tensors > TENSORS_MAX or values > VALUES_MAX:
            raise source.bad(f"it claims {tensors} tensors and {values} values, more than any model has")
        said = dict(_pair(source) for _ in range(values))
        listed = _read_tensors(source, tensors, said.get("general.alignment", 32))
        return _describe(said, listed, source.size), {tensor.name: tensor for tensor in listed}


def layer_bytes(tensors: Iterable[Tensor]) -> list[int]:
    """Of the weights of each layer; empty where a layer has none, or the model has no layers."""
    sizes: Counter[int] = Counter()
    for tensor in tensors:
        if (found := LAYER.match(tensor.name)) is not None:
            sizes[int(found[1])] += tensor.bytes
    whole = sorted(sizes) == list(range(len(sizes))) and all(sizes.values())
    return [sizes[number] for number in range(len(sizes))] if whole else []


def _pair(source: Source) -> tuple[str, Any]:
    key = _text(source, "a key", NAME_BYTES_MAX)
    kind = source.number("I", f'the kind of "{key}"')
    if kind != ARRAY:
        return key, _value(source, kind, key)
    kind, length = source.number("I", f'the kind of "{key}"'), source.number("Q", f'the length of "{key}"')
    if length > ARRAY_LENGTH_MAX:
        raise source.bad(f'the list "{key}" claims {length} elements, more than any model has')
    if kind in NUMBERS and length <= SHORT_LIST:
        return key, tuple(source.number(NUMBERS[kind], f'the list "{key}"') for _ in range(length))
    if kind in NUMBERS:
        source.skip(length * struct.calcsize(f"<{NUMBERS[kind]}"), f'the list "{key}"')
    elif kind == TEXT:
        source.skip_texts(length, f'the list "{key}"')
        _check_bound(source)
    else:
        raise source.bad(f'the list "{key}" is of kind {kind}, which GGUF does not have')
    return key, length


def _value(source: Source, kind: int, key: str) -> Any:
    if kind == TEXT:
        return _text(source, f'the value of "{key}"')
    if kind not in NUMBERS:
        raise source.bad(f'the value of "{key}" is of kind {kind}, which GGUF does not have')
    return source.number(NUMBERS[kind], f'the value of "{key}"')


def _text(source: Source, what: str, bytes_max: int | None = None) -> str:
    length = source.number("Q", what)
    if bytes_max is not None and length > bytes_max:
        raise source.bad(f"{what} claims {length} bytes")
    return source.take(length, what).decode("utf-8", "replace")


def _read_tensors(source: Source, count: int, alignment: Any) -> list[Tensor]:
    listed: list[Tensor] = []
    end = 0
    for _ in range(count):
        name = _text(source, "a tensor's name", NAME_BYTES_MAX)
        if (dimensions := source.number("I", name)) > DIMENSIONS_MAX:
            raise source.bad(f'tensor "{name}" claims {dimensions} dimensions')
        shape = tuple(source.number("Q", f'the shape of "{name}"') for _ in range(dimensions))
        kind = source.number("I", f'the kind of "{name}"')
        offset = source.number("Q", f'the place of "{name}"')
        label, elements, in_bytes = KINDS.get(kind, (f"kind {kind}", 1, 0))
        size = -(-math.prod(shape) // elements) * in_bytes
        listed.append(Tensor(name, shape, label, size))
        end = max(end, offset + size)
    _check_bound(source)
    if not isinstance(alignment, int) or not 0 < alignment <= ALIGNMENT_MAX:
        raise source.bad(f"it claims an alignment of {alignment}")
    begin = -(-source.at // alignment) * alignment
    if count and begin + end > source.size:
        raise source.bad(f"its tensors need {begin + end} bytes, and it has {source.size}")
    return listed


def _check_bound(source: Source) -> None:
    if source.at > HEADER_BYTES_MAX:
        raise source.bad(f"its header is longer than {HEADER_BYTES_MAX // 1024**2} MB")


def _describe(said: dict[str, Any], listed: Sequence[Tensor], size: int) -> Found:
    counts: Counter[str] = Counter()  # parameters of each kind
    for tensor in listed:
        counts[tensor.kind] += math.prod(tensor.shape)
    architecture = _as_text(said.get("general.architecture"))
    kind = _as_text(said.get("general.type")) or "model"
    has_template = isinstance(said.get("tokenizer.chat_template"), str)

    def own(key: str) -> int | None:
        value = said.get(f"{architecture}.{key}")
        return value if type(value) is int else None

    is_encoder = own("pooling_type") is not None or said.get(f"{architecture}.attention.causal") is False
    is_whole = kind == "model" and architecture not in (None, "clip") and bool(counts)
    skills = {Skill.EMBED if is_encoder else Skill.GENERATE} if is_whole else set()
    return Found(
        format="gguf",
        architecture=architecture,
        parameters=counts.total(),
        quantization=MIXES.get(_whole(said.get("general.file_type"))) or main_kind(counts),
        bytes=size,
        skills=frozenset(skills),
        context_tokens=own("context_length"),
        dimensions=own("embedding_length"),
        tokenizer=_as_text(said.get("tokenizer.ggml.model")),
        has_chat_template=has_template,
        licence=_as_text(said.get("general.license")),
        details={
            "type": kind,
            "adapter": _as_text(said.get("adapter.type")),
            "name": _as_text(said.get("general.name")),
            "blocks": own("block_count"),
            "cached": _cached(said, f"{architecture}."),
            "files": max(1, _whole(said.get("split.count"))),
            "tokens": said.get("tokenizer.ggml.tokens"),
        },
    )


def _cached(said: dict[str, Any], begin: str) -> int:
    """How many numbers all layers together keep of a token of the context: its keys and values."""
    blocks, width = (max(0, _whole(said.get(begin + key))) for key in ("block_count", "embedding_length"))
    heads = _whole(said.get(f"{begin}attention.head_count"))
    shared = said.get(f"{begin}attention.head_count_kv", heads)  # by several heads; of each layer, or of all
    kept = sum(shared) if isinstance(shared, tuple) else blocks * _whole(shared)
    if heads <= 0 or type(kept) is not int or kept < 0:
        return 2 * width * blocks
    sizes = (said.get(f"{begin}attention.{what}_length", width // heads) for what in ("key", "value"))
    return kept * sum(max(0, _whole(size)) for size in sizes)


def _as_text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int:
    return value if type(value) is int else -1
