"""Which of a source's files make up the model, and what each is to be called here. Pure.

Only files of known kinds are ever taken: weights that are data, and the texts that explain them. Code and
pickles are not among them. Of a GGUF model in many quantizations one is taken; of the rest, what an engine
here can run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from atoll.domain.errors import DataError
from atoll.registry.manifest import FILE_PATH

LISTED_MAX = 20
ENCODER = "bert"  # the one architecture whose safetensors an engine here runs
EXPLAINING = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "labels.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
)
QUANTIZATION = re.compile(r"(?i)(?:^|[-._])(i?q\d(?:_[a-z0-9]+)*|b?f(?:p?16|32)|fp16|mxfp4)\.gguf$")
PREFERRED = (
    *("q4_k_m", "q4_k_s", "iq4_xs", "iq4_nl", "q4_0", "q4_1", "q5_k_m", "q5_k_s", "q5_0", "q6_k", "q8_0"),
    *("mxfp4", "q3_k_m", "q3_k_l", "f16", "bf16", "f32"),
)
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?")
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
NO_WEIGHTS = ("mmproj", "imatrix")


@dataclass(frozen=True)
class Offer:
    """A file that a source has."""

    path: str
    url: str
    bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None  # where no sha256 is told: git's name for the content

    @property
    def key(self) -> str:
        """What its part is called: its hash, else one of its address, which names one content."""
        return self.sha256 or hashlib.sha256(self.url.encode()).hexdigest()


def choose(
    offers: Sequence[Offer], source: str, *, glob: str | None, variant: str | None, architecture: str | None
) -> list[Offer]:
    """The files of the model, under the names that they get in its folder; its weights come first."""
    fitting = [offer for offer in offers if FILE_PATH.fullmatch(offer.path)]
    named = [offer for offer in fitting if glob is None or fnmatchcase(offer.path, glob)]
    ggufs = [offer for offer in named if _is_whole_gguf(offer.path)]
    graphs = [offer for offer in named if offer.path.endswith(".onnx")]
    tensors = [offer for offer in named if offer.path == "model.safetensors"]
    if glob is not None and len(ggufs) > 1:
        return [_flat(offer) for offer in ggufs]  # all of them: variants of one model
    if ggufs:
        return [_flat(_one_gguf(ggufs, source, variant))]
    if tensors and architecture in (None, ENCODER):
        return [*tensors, *_explaining(fitting, "")]
    if graphs:
        graph = _one_graph(graphs, source, variant)
        return [_flat(graph), *_weights_of(graph, fitting), *_explaining(fitting, _folder(graph.path))]
    raise _nothing(offers, source, glob)


def choose_to_change(offers: Sequence[Offer], source: str, glob: str | None) -> list[Offer]:
    """The files of a model that is to be made smaller or trained: all its safetensors, whatever it is."""
    weights = [offer for offer in offers if WEIGHTS.fullmatch(offer.path)]
    if glob is None and any(offer.path.endswith(".safetensors") for offer in weights):
        weights.sort(key=lambda offer: (not offer.path.endswith(".safetensors"), offer.path))
        return [*weights, *_explaining(offers, "")]
    return choose(offers, source, glob=glob, variant=None, architecture=None)


def quantization_of(path: str) -> str | None:
    found = QUANTIZATION.search(path)
    return found[1].lower().replace("fp16", "f16") if found else None


def _is_whole_gguf(path: str) -> bool:
    name = PurePosixPath(path).name.lower()
    return name.endswith(".gguf") and not PART.search(name) and not any(word in name for word in NO_WEIGHTS)


def _one_gguf(offers: Sequence[Offer], source: str, variant: str | None) -> Offer:
    kinds = {offer.path: quantization_of(offer.path) for offer in offers}
    if variant is None and len(offers) > 1:
        known = [kind for kind in kinds.values() if kind]
        variant = next((kind for kind in PREFERRED if kind in known), None)
    found = [offer for offer in offers if variant is None or kinds[offer.path] == variant.lower()]
    return _only(found, offers, source, variant)


def _one_graph(offers: Sequence[Offer], source: str, variant: str | None) -> Offer:
    stem = "model" if variant is None else f"model_{variant.lower()}"
    found = [offer for offer in offers if PurePosixPath(offer.path).stem.lower() == stem]
    return _only(found or (list(offers) if variant is None else []), offers, source, variant)


def _only(found: Sequence[Offer], offers: Sequence[Offer], source: str, variant: str | None) -> Offer:
    if len(found) == 1:
        return found[0]
    raise DataError(
        "source-no-model",
        f'{source} has no variant "{variant}"' if not found else f"{source} has several models",
        detail=f"There are: {_list(found or offers)}.",
        hint="Name one with --variant or --file.",
    )


def _weights_of(graph: Offer, offers: Sequence[Offer]) -> list[Offer]:
    """Files beside a graph that hold its weights."""
    begins = (f"{graph.path}_data", f"{graph.path}.data")
    return [_flat(offer) for offer in offers if offer.path.startswith(begins)]


def _explaining(offers: Sequence[Offer], folder: str) -> list[Offer]:
    """Those of the weights' own folder, else those of the source's first one."""
    by_path = {offer.path: offer for offer in offers}
    found = [(name, by_path.get(folder + name) or by_path.get(name)) for name in EXPLAINING]
    return [replace(offer, path=name) for name, offer in found if offer is not None]


def _folder(path: str) -> str:
    return path[: path.rfind("/") + 1]


def _flat(offer: Offer) -> Offer:
    return replace(offer, path=PurePosixPath(offer.path).name)


def _nothing(offers: Sequence[Offer], source: str, glob: str | None) -> DataError:
    has_parts = any(PART.search(offer.path) for offer in offers)
    return DataError(
        "source-no-model",
        f'{source} has no model in "{glob}"' if glob else f"{source} has no model that an engine here runs",
        detail=f"There are: {_list(offers)}." if offers else "There are no files.",
        hint="Its GGUF is in parts: join them with llama-gguf-split, and add the file."
        if has_parts
        else "GGUF, ONNX, and safetensors of BERT encoders are run; many models have a GGUF or ONNX edition.",
    )


def _list(offers: Sequence[Offer]) -> str:
    names = sorted(offer.path for offer in offers)
    more = len(names) - LISTED_MAX
    return ", ".join(names[:LISTED_MAX]) + (f", and {more} more" if more > 0 else "")
