"""A folder of safetensors files, as Hugging Face's programs write it, with what its config.json says.

Each file is a header in JSON and the tensors, one after the other, without a gap. Only headers are read.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from atoll.domain.models import Skill
from atoll.registry.formats.found import Found, main_kind, unusable
from atoll.registry.formats.source import PIECE_BYTES_MAX, Source

FILES_MAX = 1000
HEADER_BYTES_MAX = 100 * 1024**2
DIMENSIONS_MAX = 64
BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
}
KEPT_AS = {"F32": "fp32", "F16": "fp16", "F64": "fp64", "I8": "int8", "U8": "int8"}
INDEX = "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json")
WRITERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet")
BESIDE_BYTES_MAX = 32 * 1024**2
README_BYTES_MAX = 64 * 1024


def read_safetensors(path: Path) -> Found:
    """`path` is the folder, or a file in it."""
    folder = path if path.is_dir() else path.parent
    files = _files(folder) if path.is_dir() else [path]
    counts: Counter[str] = Counter()
    for file in files:
        counts += _read_header(file)
    config = _read_json(folder / "config.json")
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else None
    return Found(
        format="safetensors",
        architecture=_text(config.get("model_type")),
        parameters=counts.total(),
        quantization=_quantization(config, counts),
        bytes=sum(file.stat().st_size for file in files),
        skills=_skills(folder, architecture, config),
        context_tokens=_whole(config.get("max_position_embeddings")),
        dimensions=_whole(config.get("hidden_size")),
        tokenizer=next((name for name in TOKENIZERS if (folder / name).is_file()), None),
        has_chat_template=(folder / "chat_template.jinja").is_file()
        or isinstance(_read_json(folder / "tokenizer_config.json").get("chat_template"), str | list),
        licence=_licence(folder / "README.md"),
        details={"class": architecture, "files": len(files), "kinds": dict(counts)},
    )


def _files(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        mapped = _read_json(folder / INDEX).get("weight_map")
        names = set(mapped.values()) if isinstance(mapped, dict) else set()
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise unusable(folder / INDEX, "it does not say which files hold the weights")
        files = [folder / name for name in sorted(names)]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files or len(files) > FILES_MAX:
        raise unusable(folder, f"it holds {len(files)} safetensors files", hint="Name the model's folder.")
    return files


def _read_header(path: Path) -> Counter[str]:
    """How many parameters there are of each kind."""
    counts: Counter[str] = Counter()
    with Source(path) as source:
        length = source.number("Q", "the header's length")
        if length > min(HEADER_BYTES_MAX, source.size - 8):
            raise source.bad(f"it claims a header of {length} bytes")
        header = _parse(_take(source, length), source)
        begin, places = 8 + length, []
        for name, tensor in header.items():
            if name != "__metadata__":
                kind, count, place = _read_tensor(source, name, tensor)
                counts[kind] += count
                places.append(place)
        end = 0
        for first, last in sorted(places):
            if first != end:
                raise source.bad(f"its tensors overlap, or leave a gap, at byte {begin + min(first, end)}")
            end = last
        if begin + end != source.size:
            raise source.bad(f"its tensors need {begin + end} bytes, and it has {source.size}")
    return counts


def _take(source: Source, length: int) -> bytes:
    pieces = range(0, length, PIECE_BYTES_MAX)
    return b"".join(source.take(min(PIECE_BYTES_MAX, length - at), "the header") for at in pieces)


def _parse(told: bytes, source: Source) -> dict[str, Any]:
    try:
        header = json.loads(told)
    except (ValueError, RecursionError) as error:
        raise source.bad("its header is not JSON") from error
    if not isinstance(header, dict):
        raise source.bad("its header is no JSON object")
    return header


def _read_tensor(source: Source, name: str, tensor: Any) -> tuple[str, int, tuple[int, int]]:
    try:
        kind, shape, (first, last) = str(tensor["dtype"]), tensor["shape"], tensor["data_offsets"]
        sizes = [*shape, first, last]
        is_whole = len(sizes) <= DIMENSIONS_MAX and all(type(size) is int and size >= 0 for size in sizes)
    except (TypeError, KeyError, ValueError) as error:
        raise source.bad(f'it does not say where tensor "{name[:100]}" is') from error
    if not is_whole or first > last:
        raise source.bad(f'tensor "{name[:100]}" has a shape or a place that cannot be')
    count = math.prod(shape)
    bits = BITS.get(kind)
    if bits is not None and count * bits != (last - first) * 8:
        raise source.bad(f'tensor "{name[:100]}" claims {count} elements of {kind} in {last - first} bytes')
    return kind, count, (first, last)


def _quantization(config: dict[str, Any], counts: Counter[str]) -> str | None:
    told = config.get("quantization_config")
    if isinstance(told, dict) and isinstance(told.get("quant_method"), str):
        bits = told.get("bits", 4 if told.get("load_in_4bit") else 8 if told.get("load_in_8bit") else None)
        return f"{told['quant_method']}-{bits}bit" if type(bits) is int else str(told["quant_method"])
    kind = main_kind(counts)
    return kind and KEPT_AS.get(kind, kind.lower())


def _skills(folder: Path, architecture: str | None, config: dict[str, Any]) -> frozenset[Skill]:
    if (folder / "adapter_config.json").is_file():
        return frozenset()
    if architecture is not None and architecture.endswith(WRITERS):
        return frozenset({Skill.GENERATE})
    is_encoder = (folder / "modules.json").is_file() or config.get("model_type") in ENCODERS
    return frozenset({Skill.EMBED if is_encoder else Skill.INFER})


def _read_json(path: Path) -> dict[str, Any]:
    """A file beside the weights; nothing where it is not there."""
    if not path.is_file():
        return {}
    with Source(path) as source:
        if source.size > BESIDE_BYTES_MAX:
            raise source.bad("it is larger than such a file ever is")
        return _parse(_take(source, source.size), source)


def _licence(readme: Path) -> str | None:
    """What the front matter of a model card says."""
    try:
        with readme.open("rb") as file:
            head = file.read(README_BYTES_MAX).decode("utf-8", "replace")
    except OSError:
        return None
    lines = head.split("\n---", 1)[0].splitlines() if head.startswith("---") else []
    found = [line.partition(":")[2].strip(" '\"") for line in lines if line.startswith("license:")]
    return found[0] or None if found else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None
