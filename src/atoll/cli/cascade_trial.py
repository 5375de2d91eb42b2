"""Asks a small and a larger model of the running node the same, and sees which of them is right."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atoll.cli.asking import asked
from atoll.cli.chat import CHAT, tensors_of
from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.router.cascades import scores
from atoll.router.cascades.calibrate import Example, isotonic
from atoll.router.policy import cascade
from atoll.router.policy.cascade import POINTS_MAX, Policy
from atoll.router.policy.confidence import Calibration, Measure, Meter, agreement, what_is_said

if TYPE_CHECKING:
    from atoll.node.home import Home


@dataclass(frozen=True)
class Seen:
    value: float | None  # as it was measured
    scores: NDArray[Any] | None  # of a classifier: one row
    label: int
    first_right: bool
    then_right: bool

    def example(self, calibration: Calibration) -> Example:
        value = calibration.of(self.value)
        if self.scores is not None:
            value = float(scores.scores({"scores": self.scores}, None, calibration)[0])
        return Example(value, self.first_right, self.then_right)


class Trial:
    def __init__(self, home: Home, first: str, then: str, tokens: int) -> None:
        self._home, self._first, self._then, self._tokens = home, first, then, tokens
        told = self._get(f"/v1/models/{first}")
        self.skill = Skill.INFER if Skill.INFER in told["skills"] else Skill.GENERATE

    def usual_measure(self) -> Measure:
        return Measure.SCORE if self.skill is Skill.INFER else Measure.MEAN_LOGPROB

    def ask(self, policy: Policy, rows: Sequence[tuple[Any, Any]]) -> Iterator[Seen]:
        """One after the other: the node's callers are not to wait for this."""
        if self.skill is Skill.INFER:
            inputs = {
                model: self._get(f"/v2/models/{model}")["inputs"] for model in (self._first, self._then)
            }
            for given, label in rows:
                yield self._classified(policy, inputs, _parsed(given), _class(label))
            return
        for given, label in rows:
            yield self._talked(policy, given, str(label))

    def fit(self, policy: Policy, seen: Sequence[Seen]) -> dict[str, Any]:
        """A temperature for a classifier's scores, points for all else."""
        rows = [one.scores for one in seen if one.scores is not None]
        if rows and rows[0].shape[1] > 1:
            labels = np.array([one.label for one in seen])
            return {"temperature": round(scores.fit_temperature(np.concatenate(rows), labels), 4)}
        points = isotonic([one.example(Calibration()) for one in seen])
        step = -(-len(points) // POINTS_MAX)
        return {"points": [list(point) for point in points[::step]]}

    def _talked(self, policy: Policy, given: Any, label: str) -> Seen:
        messages = given if isinstance(given, list) else [{"role": "user", "content": str(given)}]
        body = {"messages": messages, "max_tokens": self._tokens, "temperature": 0}
        small = self._post(CHAT, {**cascade.asked_first(policy, CHAT, body), "model": self._first})
        if policy.measure is Measure.AGREEMENT:
            others = cascade.asked_again(policy, body)
            value = agreement([small, *(self._post(CHAT, {**one, "model": self._first}) for one in others)])
        else:
            meter = Meter(policy.measure)
            meter.feed(small)
            value = meter.value()
        large = self._post(CHAT, {**body, "model": self._then})
        return Seen(value, None, 0, _is_right(small, label), _is_right(large, label))

    def _classified(self, policy: Policy, inputs: Mapping[str, Any], given: Any, label: int) -> Seen:
        found = []
        for model in (self._first, self._then):
            tensors = tensors_of(model, inputs[model], given)
            outputs = self._post(f"/v2/models/{model}/infer", {"inputs": tensors})["outputs"]
            arrays = {one["name"]: _array(one) for one in outputs}
            found.append(scores.chosen(arrays, policy.output))
        best = [int(row[0].argmax()) if row.ndim > 1 else int(row[0] > 0.5) for row in found]
        return Seen(None, found[0], label, best[0] == label, best[1] == label)

    def _get(self, path: str) -> Any:
        with asked(self._home, path, None) as answer:
            return json.loads(answer.read())

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with asked(self._home, path, body) as answer:
            return json.loads(answer.read())


def _array(told: Mapping[str, Any]) -> NDArray[Any]:
    kind = np.float64 if str(told["datatype"]).startswith(("FP", "BF")) else None
    return np.array(told["data"], kind).reshape(told["shape"])


def _is_right(answer: Mapping[str, Any], label: str) -> bool:
    return what_is_said(answer) == what_is_said({"choices": [{"message": {"content": label}}]})


def _parsed(given: Any) -> Any:
    """Numbers from a file's text."""
    try:
        return json.loads(given) if isinstance(given, str) else given
    except ValueError as error:
        raise DataError("request-malformed", "the input of a row is not JSON", detail=f"{error}.") from error


def _class(label: Any) -> int:
    try:
        return int(label)
    except (TypeError, ValueError):
        raise DataError(
            "request-malformed", f"{label!r} is not the number of a class", hint="Classes count from 0."
        ) from None
