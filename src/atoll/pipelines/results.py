"""What a model said of some rows becomes one JSON object a row. Pure.

A classifier's scores become `label`, `score` and `scores`; a single number becomes `score`; whatever else the
model gives is in `outputs`, as far as it is small. Scores become shares of one only where the model's file
says that they are logits: nobody can tell that from the numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atoll.domain.errors import DataError
from atoll.pipelines.arrays import unfit
from atoll.runtimes.contract import Array

SCORES_MAX = 100
VALUES_MAX = 4096
Result = dict[str, Any]


def read_labels(details: Mapping[str, Any], options: Mapping[str, Any]) -> list[str]:
    """The names of a model's classes, in order: from the pipeline's options, else from the model's file."""
    told = options.get("labels", details.get("labels"))
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except ValueError:
            told = [part.strip() for part in told.replace("\n", ",").split(",") if part.strip()]
    if isinstance(told, Mapping):
        told = [told[key] for key in sorted(told, key=lambda key: int(key) if str(key).isdigit() else 0)]
    return [str(one) for one in told] if isinstance(told, list) else []


def of_outputs(
    outputs: Mapping[str, Array], rows: int, labels: Sequence[str], is_logits: bool
) -> list[Result | DataError]:
    """One result for each row, or why there is none."""
    odd = [name for name, array in outputs.items() if array.shape[:1] != (rows,)]
    if odd:
        return [unfit(f'output "{odd[0]}" of the model does not have a value for each row')] * rows
    scored = _find_scores(outputs, labels)
    return [
        _of_row({name: np.asarray(a[row]) for name, a in outputs.items()}, scored, labels, is_logits)
        for row in range(rows)
    ]


def _find_scores(outputs: Mapping[str, Array], labels: Sequence[str]) -> str | None:
    """The output with a number for each class."""
    fitting = [name for name, a in outputs.items() if a.dtype.kind == "f" and a.ndim == 2 and a.shape[1] > 1]
    named = [name for name in fitting if outputs[name].shape[1] == len(labels)]
    found = named or fitting
    return found[0] if found else None


def _of_row(
    row: Mapping[str, Array], scored: str | None, labels: Sequence[str], is_logits: bool
) -> Result | DataError:
    found: Result = {}
    if scored is not None:
        scores = row[scored].astype(np.float64)
        if not np.isfinite(scores).all():
            return unfit(f'output "{scored}" of the model has a score that is no number')
        scores = _softmax(scores) if is_logits else scores
        best = int(np.argmax(scores))
        found |= {"label": _name(best, labels), "score": float(scores[best])}
        found["scores"] = {
            _name(int(at), labels): float(scores[at])
            for at in np.argsort(-scores, kind="stable")[:SCORES_MAX]
        }
    others = {name: array for name, array in row.items() if name != scored}
    for array in others.values():
        if array.size != 1:
            continue
        value = array.reshape(()).item()
        if array.dtype.kind in "iu" and "label" not in found:
            found["label"] = _name(value, labels)
        elif array.dtype.kind in "OSU":
            found["label"] = value.decode() if isinstance(value, bytes) else str(value)
        elif array.dtype.kind == "f" and "score" not in found:
            if not np.isfinite(value):
                return unfit("the model's score is no number")
            found["score"] = value
    small = {name: _plain(array) for name, array in others.items() if array.size <= VALUES_MAX}
    if small:
        found["outputs"] = small
    if len(small) < len(others):
        found["left_out"] = sorted(others.keys() - small.keys())
    return found


def _name(at: int, labels: Sequence[str]) -> str:
    return labels[at] if 0 <= at < len(labels) else str(at)


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max())
    return np.asarray(powers / powers.sum())


def _plain(array: Array) -> Any:
    """As JSON has it, which knows neither bytes nor numbers that are none."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        return np.where(np.isfinite(array), array, np.array(None, object)).tolist()
    if array.dtype.kind in "OS":
        return np.vectorize(lambda one: one.decode() if isinstance(one, bytes) else one, [object])(
            array
        ).tolist()
    return array.tolist()


def as_json(result: Result) -> str:
    return json.dumps(result, ensure_ascii=False, default=str)


def of_vector(vector: Array) -> Result | DataError:
    if not np.isfinite(vector).all():
        return unfit("the model's vector has values that are no numbers")
    return {"embedding": [round(float(one), 7) for one in vector]}


def of_vectors(outputs: Mapping[str, Array], rows: int) -> list[Result | DataError]:
    """The one output of a model that makes a vector of each row."""
    array = next(iter(outputs.values()))
    if len(outputs) > 1 or array.ndim != 2 or array.shape[0] != rows or array.dtype.kind != "f":
        return [unfit("the model does not give one vector for each row")] * rows
    return [of_vector(row) for row in array]


def of_text(text: str) -> Result:
    """The text, and what it says if it is JSON. PostgreSQL's texts have no zero byte."""
    text = text.replace("\x00", "")
    found: Result = {"text": text}
    if text.lstrip()[:1] in ("{", "["):
        try:
            found["json"] = json.loads(text, parse_constant=lambda word: None)
        except ValueError:
            return found
        if isinstance(found["json"], dict):
            found |= {key: found["json"][key] for key in ("label", "score") if key in found["json"]}
    return found
