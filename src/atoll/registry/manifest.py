"""The manifest of a model: what it is, which files it has, and what it needs. Pure; it travels as JSON.

A version is named after the content of its files, so the same files are the same version wherever they are
added. A variant is one form of it (another quantization, another format); a node takes the best that fits.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from atoll.domain.errors import DataError
from atoll.domain.models import Skill, TensorFacts

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ADAPTER_NAME = re.compile(f"{NAME.pattern}:{NAME.pattern}")
FILE_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,4}")
REGION = re.compile(r"[a-z][a-z0-9-]{0,63}")
PRICE_MAX = 1e6
SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION_LETTERS = 12
MANIFEST_BYTES_MAX = 256 * 1024
FORMATS = ("gguf", "onnx", "safetensors")


@dataclass(frozen=True)
class File:
    """One file of a variant; `path` is where it lies in the variant's folder."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Variant:
    name: str
    format: str
    entry: str  # the path of the file that is loaded
    files: tuple[File, ...]
    memory_bytes: int  # of weights and working space
    token_bytes: int = 0  # of each token of context
    quantization: str | None = None

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def needs(self, tokens: int) -> int:
        """Bytes of memory with a context of so many tokens, of all callers together."""
        return self.memory_bytes + self.token_bytes * tokens


class Kind(StrEnum):
    MODEL = "model"
    ADAPTER = "adapter"  # used with its base, which its name begins with
    UPSTREAM = "upstream"  # of somebody else's server; it has no files


@dataclass(frozen=True)
class Upstream:
    """A server that speaks the OpenAI API. Its key is in no manifest: each node has its own."""

    base: str  # up to, not including, /v1
    model: str  # what it is called there
    needs_key: bool
    region: str | None = None  # where its server is; not known, nothing of a route goes there
    price: tuple[float, float] | None = None  # per million tokens in and out


@dataclass(frozen=True)
class Manifest:
    name: str
    variants: tuple[Variant, ...]
    skills: tuple[Skill, ...]
    kind: Kind = Kind.MODEL
    upstream: Upstream | None = None
    architecture: str | None = None
    parameters: int | None = None
    context_tokens: int | None = None
    inputs: tuple[TensorFacts, ...] = ()
    outputs: tuple[TensorFacts, ...] = ()
    licence: str | None = None
    source: str | None = None

    @property
    def version(self) -> str:
        files: list[Any] = sorted((v.name, f.path, f.sha256) for v in self.variants for f in v.files)
        if self.upstream is not None:
            told = {name: value for name, value in asdict(self.upstream).items() if value is not None}
            files.append([told, *sorted(self.skills)])
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:VERSION_LETTERS]

    def choose(self, memory_max_bytes: int, tokens: int = 0, wanted: str | None = None) -> Variant:
        """The variant that is wanted, else the largest that fits; the smallest where none does."""
        if wanted is not None:
            for variant in self.variants:
                if variant.name == wanted:
                    return variant
            names = ", ".join(variant.name for variant in self.variants)
            raise DataError(
                "variant-unknown",
                f'model "{self.name}" has no variant "{wanted}"',
                hint=f"There are: {names}.",
            )
        fitting = [variant for variant in self.variants if variant.needs(tokens) <= memory_max_bytes]
        if not fitting:
            return min(self.variants, key=lambda variant: variant.needs(tokens))
        return max(fitting, key=lambda variant: variant.needs(tokens))


def to_json(manifest: Manifest) -> dict[str, Any]:
    """As plain values, in one way only: what is signed has to be the same bytes again."""
    made: dict[str, Any] = json.loads(json.dumps(asdict(manifest)))
    return made


def signed_bytes(told: Mapping[str, Any]) -> bytes:
    return json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def from_json(told: Mapping[str, Any]) -> Manifest:
    """A manifest that somebody sent; nothing in it is believed to be well-formed."""
    try:
        if len(signed_bytes(told)) > MANIFEST_BYTES_MAX:
            raise ValueError("it is too large")
        manifest = Manifest(
            **{
                **told,
                "kind": Kind(told.get("kind", Kind.MODEL)),
                "upstream": _upstream(told.get("upstream")),
                "variants": tuple(_variant(one) for one in told["variants"]),
                "skills": tuple(Skill(one) for one in told["skills"]),
                "inputs": tuple(_tensor(one) for one in told["inputs"]),
                "outputs": tuple(_tensor(one) for one in told["outputs"]),
            }
        )
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "manifest-malformed", "cannot understand a model's manifest", detail=f"{error}."
        ) from error
    return manifest


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise DataError(
            "model-name",
            f'cannot call a model "{name}"',
            detail="A name has up to 63 small letters, digits, dots, hyphens and underscores.",
            hint="Give one with --name.",
        )
    return name


def adapter_name(base: str, name: str) -> str:
    """An adapter's full name, as callers write it."""
    return f"{base}:{check_name(name.removeprefix(f'{base}:'))}"


def name_from(path: str) -> str:
    """A model's name, made from that of its file or folder."""
    base = path.rstrip("/").rpartition("/")[2].removesuffix(".gguf").removesuffix(".onnx")
    return re.sub(r"[^a-z0-9._-]+", "-", base.lower()).strip("-._")[:63] or "model"


def _variant(told: Mapping[str, Any]) -> Variant:
    return Variant(**{**told, "files": tuple(File(**file) for file in told["files"])})


def _upstream(told: Mapping[str, Any] | None) -> Upstream | None:
    if told is None:
        return None
    price = told.get("price")
    found = Upstream(**{**told, "price": None if price is None else _price(price)})
    if not (found.region is None or (isinstance(found.region, str) and REGION.fullmatch(found.region))):
        raise ValueError("its upstream is in no region")
    if not (found.base.startswith(("http://", "https://")) and found.model and type(found.needs_key) is bool):
        raise ValueError("its upstream is none")
    return found


def _price(told: Any) -> tuple[float, float]:
    price = tuple(told)
    if len(price) != 2 or not all(type(one) in (int, float) and 0 <= one < PRICE_MAX for one in price):
        raise ValueError("its upstream's price is none")
    return float(price[0]), float(price[1])


def _tensor(told: Mapping[str, Any]) -> TensorFacts:
    found = TensorFacts(str(told["name"]), str(told["datatype"]), tuple(told["shape"]))
    if not all(_is_whole(size, -1) for size in found.shape):
        raise ValueError(f'tensor "{found.name}" has no shape')
    return found


def _check(manifest: Manifest) -> None:
    name = ADAPTER_NAME if manifest.kind is Kind.ADAPTER else NAME
    is_upstream = manifest.kind is Kind.UPSTREAM
    if not name.fullmatch(manifest.name) or bool(manifest.variants) is is_upstream:
        raise ValueError("it has no name or no variants")
    if (manifest.upstream is not None) is not is_upstream:
        raise ValueError("it does not say where to ask")
    if not all(
        number is None or _is_whole(number) for number in (manifest.parameters, manifest.context_tokens)
    ):
        raise ValueError("its parameters or its context are no numbers")
    for variant in manifest.variants:
        paths = [file.path for file in variant.files]
        if variant.format not in FORMATS or variant.entry not in paths or len(set(paths)) < len(paths):
            raise ValueError(f'variant "{variant.name}" has no file to load')
        needs = (variant.memory_bytes, variant.token_bytes)
        if not (isinstance(variant.name, str) and all(map(_is_whole, needs))):
            raise ValueError(f'variant "{variant.name}" does not say what it needs')
        for file in variant.files:
            is_named = FILE_PATH.fullmatch(file.path) and SHA256.fullmatch(file.sha256)
            if not (is_named and _is_whole(file.bytes)):
                raise ValueError(f'file "{file.path}" is not described well')


def _is_whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least
