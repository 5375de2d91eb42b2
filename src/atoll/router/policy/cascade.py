"""A cascade: the small model answers first, and what it is not sure of goes on to a larger one. Pure.

One policy for text and for tensors, as it stands in the options of a route. Where the request may not go on,
the small model's answer is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from atoll.domain.errors import DataError
from atoll.domain.models import Skill
from atoll.router.policy.confidence import OF_TOKENS, TOP, Calibration, Measure

SAMPLES_MAX = 16
POINTS_MAX = 64
PATIENCE_SECONDS, PATIENCE_SECONDS_MAX = 30.0, 600.0
# Only these say something of each token, and in a stream only where no tools are offered.
PATHS_WITH_TOKENS = ("/v1/chat/completions", "/v1/completions")
SAMPLING_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Policy:
    first: str
    then: str | None  # any other model of the route, where none is named
    measure: Measure
    threshold: float
    samples: int = 3
    calibration: Calibration = field(default_factory=Calibration)
    output: str | None = None  # of a tensor model, where its scores are
    split_rows: bool = True  # whether only the unsure rows of a request go on
    patience_seconds: float = PATIENCE_SECONDS  # for the larger model's first word
    keeps: bool = False  # what the first model was not sure of, to learn from

    def told(self) -> dict[str, Any]:
        return {"first": self.first, "measure": self.measure, "threshold": self.threshold}

    def turn(self, model: str) -> str | None:
        """When a model of the route is asked; some never are."""
        if model == self.first:
            return "first"
        return "then" if self.then in (None, model) else None


@dataclass(frozen=True)
class Verdict:
    goes_on: bool
    confidence: float | None
    why: str


def decide(policy: Policy, confidence: float | None, barred: Sequence[str] = ()) -> Verdict:
    """`confidence` is calibrated already; `barred` says why the request may not go on."""
    if confidence is not None and confidence >= policy.threshold:
        return Verdict(False, confidence, f"{confidence:.3f} is at least {policy.threshold:g}")
    unsure = "not known" if confidence is None else f"{confidence:.3f} is less than {policy.threshold:g}"
    if barred:
        return Verdict(False, confidence, f"{unsure}, but it may not go on: {'; '.join(barred)}")
    return Verdict(True, confidence, unsure)


def is_sure(policy: Policy, value: float) -> bool:
    """Of a value as it was measured."""
    found = policy.calibration.of(value)
    return found is not None and found >= policy.threshold


def check(policy: Policy, skill: Skill) -> None:
    """Refuse a measure that a model of this kind does not have."""
    fits = (policy.measure is Measure.SCORE) is (skill is Skill.INFER)
    if skill is Skill.EMBED or not fits:
        raise _malformed(
            f'measure "{policy.measure}" is not one of a model that is made to {skill}',
            "Text has mean_logprob, min_margin, entropy and agreement; tensors have score.",
        )


def asked_first(policy: Policy, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The request as the small model gets it: it is to say how sure it is, if it can."""
    if policy.measure not in OF_TOKENS or path not in PATHS_WITH_TOKENS or body.get("tools"):
        return dict(body)
    if path == "/v1/completions":
        return {**body, "logprobs": max(TOP, _count(body.get("logprobs")))}
    return {**body, "logprobs": True, "top_logprobs": max(TOP, _count(body.get("top_logprobs")))}


def asked_again(policy: Policy, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The other samples: the same request, so warm that a model that is not sure says something else."""
    warmth, seed = body.get("temperature"), body.get("seed")
    given = warmth if isinstance(warmth, int | float) else 1.0
    begin = seed if isinstance(seed, int) else 0
    return [
        {**body, "temperature": max(given, SAMPLING_TEMPERATURE), "seed": begin + number}
        for number in range(1, policy.samples)
    ]


def choices(body: Mapping[str, Any]) -> int:
    prompts = body.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and all(isinstance(p, str) for p in prompts) else 1
    return max(1, _count(body.get("n"))) * max(1, several)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


FIELDS = (
    "first",
    "then",
    "measure",
    "threshold",
    "samples",
    "calibration",
    "output",
    "split_rows",
    "patience_seconds",
    "keep",
)


def parse(told: Any) -> Policy:
    if not isinstance(told, Mapping):
        raise _malformed("it is not an object")
    if unknown := sorted(told.keys() - set(FIELDS)):
        raise _malformed(f'it has an unknown field "{unknown[0]}"', f"There are: {', '.join(FIELDS)}.")
    first, then = _text(told, "first"), _text(told, "then")
    if first is None or first == then:
        raise _malformed("it needs a model that is asked first, and another one then")
    if told.get("measure") not in list(Measure):
        raise _malformed("it needs a measure", f"One of: {', '.join(Measure)}.")
    threshold = _number(told, "threshold", 0.0, 1.0)
    if threshold is None:
        raise _malformed("it needs a threshold", "Find one: atoll route calibrate")
    samples = _number(told, "samples", 2, SAMPLES_MAX)
    split_rows, keeps = told.get("split_rows", True), told.get("keep", False)
    if not isinstance(keeps, bool):
        raise _malformed("keep is true or false")
    if not isinstance(split_rows, bool) or (samples is not None and samples != int(samples)):
        raise _malformed("split_rows is true or false, and samples a whole number")
    return Policy(
        first,
        then,
        Measure(told["measure"]),
        threshold,
        Policy.samples if samples is None else int(samples),
        _calibration(told.get("calibration")),
        _text(told, "output"),
        split_rows,
        _number(told, "patience_seconds", 0.0, PATIENCE_SECONDS_MAX) or PATIENCE_SECONDS,
        keeps,
    )


def _calibration(told: Any) -> Calibration:
    if told is None:
        return Calibration()
    if not isinstance(told, Mapping) or not told.keys() <= {"temperature", "points"}:
        raise _malformed("its calibration has something else than temperature and points")
    points = told.get("points", [])
    if not isinstance(points, list) or len(points) > POINTS_MAX:
        raise _malformed(f"its points are no list of {POINTS_MAX} at most")
    found = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2:
            raise _malformed("a point is not a pair of numbers")
        pair = {"from": point[0], "to": point[1]}
        found.append((_number(pair, "from", 0.0, 1.0) or 0.0, _number(pair, "to", 0.0, 1.0) or 0.0))
    if any(low[0] >= high[0] or low[1] > high[1] for low, high in pairwise(found)):
        raise _malformed("its points do not rise")
    return Calibration(_number(told, "temperature", 0.01, 100.0) or 1.0, tuple(found))


def _text(told: Mapping[str, Any], name: str) -> str | None:
    value = told.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise _malformed(f"{name} is not a name")
    return value


def _number(told: Mapping[str, Any], name: str, least: float, most: float) -> float | None:
    value = told.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _malformed(f"{name} is not a number from {least:g} to {most:g}")
    return float(value)


def _malformed(what: str, hint: str | None = None) -> DataError:
    return DataError("cascade-malformed", f"cannot use the cascade: {what}", hint=hint)
