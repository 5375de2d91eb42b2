"""Whether a request fits a model, said before the engine sees it: names, datatypes, shapes.

Pure. The engine would refuse most of it too, but in its own words, and for some it would fail within.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from atoll.domain.models import TensorFacts
from atoll.runtimes.contract import Array
from atoll.runtimes.onnx.refusals import refused

KINDS = {  # numpy's name of what the Open Inference Protocol calls so
    **{f"{sign.upper()}INT{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}
NAMES = {kind: datatype for datatype, kind in KINDS.items()}


def datatype_of(array: Array) -> str:
    """In the protocol's words; what the protocol lacks, in numpy's."""
    return "BYTES" if array.dtype.kind in "OSU" else NAMES.get(array.dtype.name, array.dtype.name)


def check_inputs(wanted: Sequence[TensorFacts], given: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs as the engine takes them. DataError `request-refused` names the input that does not fit."""
    if unknown := sorted(set(given) - {facts.name for facts in wanted}):
        raise refused(f'the model has no input "{unknown[0]}"', f"Its inputs are {_listed(wanted)}.")
    return {facts.name: _check(facts, given) for facts in wanted}


def check_outputs(known: Sequence[TensorFacts], wanted: Sequence[str]) -> list[str]:
    names = [facts.name for facts in known]
    if unknown := [name for name in wanted if name not in names]:
        raise refused(f'the model has no output "{unknown[0]}"', f"Its outputs are {_listed(known)}.")
    return list(dict.fromkeys(wanted)) or names


def _check(facts: TensorFacts, given: Mapping[str, Array]) -> Array:
    if facts.name not in given:
        raise refused(f'input "{facts.name}" is missing', f"It is {_described(facts)}.")
    array = given[facts.name]
    if (datatype := datatype_of(array)) != facts.datatype:
        raise refused(
            f'input "{facts.name}" is {datatype}, and the model wants {facts.datatype}',
            f"It is {_described(facts)}.",
        )
    fits = len(array.shape) == len(facts.shape) and all(
        size in (-1, given_size) for size, given_size in zip(facts.shape, array.shape, strict=True)
    )
    if not fits:
        shape = list(array.shape)
        raise refused(
            f'input "{facts.name}" has shape {shape}, and the model wants {list(facts.shape)}',
            "A size of -1 may be anything." if -1 in facts.shape else None,
        )
    return _as_text(facts.name, array) if facts.datatype == "BYTES" else array


def _as_text(name: str, array: Array) -> Array:
    """The engine knows text alone, and takes bytes for their Python notation."""
    try:
        texts = [text.decode() if isinstance(text, bytes) else text for text in array.ravel().tolist()]
    except UnicodeDecodeError as error:
        raise refused(f'input "{name}" is not text in UTF-8', "ONNX has texts, and no bytes.") from error
    if not all(isinstance(text, str) for text in texts):
        raise refused(f'input "{name}" is not text', "Each element has to be a text.")
    found = np.empty(array.shape, object)
    found.ravel()[:] = texts
    return found


def _described(facts: TensorFacts) -> str:
    return f"{facts.datatype} of shape {list(facts.shape)}"


def _listed(known: Sequence[TensorFacts]) -> str:
    return ", ".join(f'"{facts.name}" ({_described(facts)})' for facts in known) or "none"
