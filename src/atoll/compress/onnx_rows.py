"""What a model in ONNX is calibrated and judged with: texts for one that reads text, else tensors.

Tensors come as a file of numpy (`.npz`, an array for each input, a row for each request) or as lines of JSON
({"input": …}, or {"inputs": {name: …}}), with a `label` where one is known. Every request is asked once when
it is read, so that what does not fit is refused before anything is made of it.
"""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import AtollError, DataError
from atoll.domain.models import TensorFacts
from atoll.runtimes.onnx.encoder import Encoder, find_encoder
from atoll.runtimes.onnx.engine import Engine, Loading, Stop
from atoll.runtimes.onnx.inputs import KINDS, check_inputs
from atoll.runtimes.onnx.source import find_model
from atoll.runtimes.onnx.wants import Wants

Array = NDArray[Any]
Request = dict[str, Array]
BYTES_MAX = 256 * 1024**2
TEXT_BYTES_MAX = 64 * 1024**2
TOGETHER = 32
LABELS = ("label", "labels")
LINE = 'A line is {"input": [0.1, 0.2]}, or {"inputs": {"x": [0.1], "y": [2]}}; "label": 3 may be said too.'


@dataclass(frozen=True)
class Rows:
    requests: tuple[Request, ...]
    labels: tuple[int, ...] = ()  # of all rows, one after the other
    texts: tuple[str, ...] = ()  # where the model reads text


@dataclass(frozen=True)
class Scores:
    """How likely a classifier holds each class to be, a row for each row; and which output told it."""

    output: str
    chances: Array
    is_chance: bool  # as the model tells it; else they were made of what it tells


class Model:
    """A source of weights as the runtime loads it."""

    def __init__(self, path: Path) -> None:
        found, _ = find_model(path)
        wants = Wants()
        self.engine = Engine(found, path.name, Loading(wants))
        self.folder = path if path.is_dir() else path.parent
        self.encoder: Encoder | None = find_encoder(self.folder, self.engine, wants)

    def run(self, request: Mapping[str, Array]) -> dict[str, Array]:
        return self.engine.run(request, [facts.name for facts in self.engine.outputs], Stop())


def read_rows(path: Path, model: Model, count: int) -> Rows:
    """At most so many; where there are more, they are taken from all over the file."""
    try:
        if path.stat().st_size > (BYTES_MAX if path.suffix == ".npz" else TEXT_BYTES_MAX):
            raise refused(path, "it is too large", "A text has at most 64 MB, a file of numpy 256.")
        if model.encoder is not None and path.suffix not in (".npz", ".jsonl"):
            return _read_texts(path, model, model.encoder, count)
        found = _read_npz(path, model, count) if path.suffix == ".npz" else _read_lines(path, model, count)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise refused(path, f"it cannot be read: {error}", LINE) from error
    for request in found.requests:
        for name, answer in _asked(path, model, request).items():
            if answer.dtype.kind == "f" and not np.isfinite(answer).all():
                raise refused(path, f'the model answers with values that are no numbers in "{name}"')
    return found


def scores_of(answer: Mapping[str, Array]) -> Scores:
    named = [(name, value) for name, value in answer.items() if value.ndim == 2 and value.shape[1] > 1]
    if not named:
        raise DataError("measure-refused", "cannot measure: no output of the model is a row of scores")
    name, found = named[-1][0], named[-1][1].astype(np.float64)
    if found.min() >= 0 and (abs(found.sum(axis=1) - 1) < 1e-3).all():
        return Scores(name, found, True)
    powers = np.exp(found - found.max(axis=1, keepdims=True))
    return Scores(name, powers / powers.sum(axis=1, keepdims=True), False)


def refused(path: Path, why: str, hint: str | None = None) -> DataError:
    detail = f"{why[:1].upper()}{why[1:]}."
    return DataError("calibration-refused", f'cannot use "{path.name}"', detail=detail, hint=hint)


def _asked(path: Path, model: Model, request: Request) -> dict[str, Array]:
    try:
        return model.run(check_inputs(model.engine.inputs, request))
    except AtollError as error:
        raise refused(path, f"{error}: {error.detail or ''}".rstrip(": .")) from error


def _read_texts(path: Path, model: Model, encoder: Encoder, count: int) -> Rows:
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise refused(path, "it has no text", "Each line is a text.")
    texts = _shortened(_spread(lines, count), model.folder, encoder.tokens_max)
    requests: list[Request] = []

    async def run(inputs: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        requests.append(dict(inputs))
        return model.engine.run(inputs, wanted, Stop())

    try:
        found = asyncio.run(encoder.embed(texts, run))
    except AtollError as error:
        hint = "Its tokenizer may be that of another model."
        raise refused(path, f"{error}: {error.detail or ''}".rstrip(": ."), hint) from error
    if not np.isfinite(found.vectors).all():
        raise refused(path, "the model's vectors hold values that are no numbers")
    return Rows(tuple(requests), (), tuple(texts))


def _shortened(texts: Sequence[str], folder: Path, tokens_max: int) -> list[str]:
    """Each as far as the model reads."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(tokens_max)
    cuts = tokenizer.encode_batch(list(texts))
    return [text[: max(end for _, end in cut.offsets)] for text, cut in zip(texts, cuts, strict=True)]


def _read_npz(path: Path, model: Model, count: int) -> Rows:
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[name] for name in held.files}
    labels = next((arrays.pop(name) for name in LABELS if name in arrays), None)
    _same_names(path, model, arrays)
    sizes = {len(array) for array in (*arrays.values(), *([] if labels is None else [labels]))}
    if len(sizes) != 1 or sizes == {0}:
        raise refused(path, f"its arrays have {_counted(sizes)} rows", "Each needs one row for a request.")
    places = _spread(range(sizes.pop()), count)
    fixed = {facts.shape[0] for facts in model.engine.inputs if facts.shape and facts.shape[0] > 0}
    step = min(fixed, default=TOGETHER)
    if fixed:
        places = places[: len(places) // step * step]
    requests = [
        {
            facts.name: _as_kind(arrays[facts.name][places[at : at + step]], facts)
            for facts in model.engine.inputs
        }
        for at in range(0, len(places), step)
    ]
    if not requests:
        raise refused(path, f"it has fewer rows than the {step} that the model takes at once")
    return Rows(tuple(requests), () if labels is None else tuple(int(labels[at]) for at in places))


def _read_lines(path: Path, model: Model, count: int) -> Rows:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not lines:
        raise refused(path, "it has no rows", LINE)
    told = [json.loads(line) for line in _spread(lines, count)]
    requests = []
    for one in told:
        inputs = one["inputs"] if "inputs" in one else {model.engine.inputs[0].name: one["input"]}
        _same_names(path, model, inputs)
        requests.append({facts.name: _as_row(inputs[facts.name], facts) for facts in model.engine.inputs})
    labels = [one["label"] for one in told if "label" in one]
    if labels and (len(labels) < len(told) or not all(type(label) is int for label in labels)):
        raise refused(path, "some rows have a label that is a whole number, and others have none")
    return Rows(tuple(requests), tuple(labels))


def _same_names(path: Path, model: Model, given: Mapping[str, Any]) -> None:
    wanted = [facts.name for facts in model.engine.inputs]
    if sorted(given) != sorted(wanted):
        names = ", ".join(sorted(given)) or "nothing"
        raise refused(path, f"it gives {names}, and the model wants {', '.join(wanted)}", LINE)


def _as_row(value: Any, facts: TensorFacts) -> Array:
    array = _as_kind(np.asarray(value), facts)
    if array.ndim == len(facts.shape):
        return array
    return array.reshape(facts.shape[0] if facts.shape[0] > 0 else 1, *facts.shape[1:])


def _as_kind(array: Array, facts: TensorFacts) -> Array:
    wanted = np.dtype(KINDS[facts.datatype])
    if array.dtype.kind not in "biuf" and wanted.kind != "O":
        raise ValueError(f'"{facts.name}" holds values that are no numbers')
    return array.astype(wanted)


def _spread(things: Sequence[Any], count: int) -> list[Any]:
    places = np.linspace(0, len(things) - 1, min(count, len(things))).round().astype(int)
    return [things[at] for at in places]


def _counted(sizes: set[int]) -> str:
    return " and ".join(str(size) for size in sorted(sizes))
