"""How sure a classifier is of each row, from the arrays that it gives. Pure.

Probabilities are taken as they are, other numbers are taken for logits. Apart from confidence.py because an
idle node does without numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import DataError
from atoll.router.policy.confidence import Calibration

USUAL = "probabilities"
GOLDEN = (5**0.5 - 1) / 2
OFF_MAX = 1e-3  # by which a row of probabilities may miss one
Rows = NDArray[np.float64]


def scores(outputs: Mapping[str, NDArray[Any]], named: str | None, calibration: Calibration) -> Rows:
    """One number a row; 0 where the model gives none that makes sense."""
    classes = probabilities(chosen(outputs, named), calibration.temperature)
    best: Rows = np.nan_to_num(classes.max(axis=1), nan=0.0)
    if not calibration.points:
        return best
    known, truth = zip(*calibration.points, strict=True)
    found: Rows = np.interp(best, known, truth)
    return found


def probabilities(values: NDArray[Any], temperature: float = 1.0) -> Rows:
    """[rows, classes], each row adding up to one; a single column is one of two classes."""
    rows = values.astype(np.float64).reshape(len(values), -1)
    with np.errstate(all="ignore"):
        if rows.shape[1] == 1:
            logits = np.hstack([np.zeros_like(rows), np.log(rows / (1 - rows)) if _is_share(rows) else rows])
        else:
            is_whole = _is_share(rows) and bool(np.all(np.abs(rows.sum(axis=1) - 1) < OFF_MAX))
            logits = np.log(rows) if is_whole else rows
        logits = np.clip(logits, -700, 700) / temperature
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fit_temperature(values: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The temperature at which these scores are the most honest: the least loss, by golden section."""

    def loss(logarithm: float) -> float:
        shares = probabilities(values, math.exp(logarithm))
        return -float(np.log(np.maximum(shares[np.arange(len(labels)), labels], 1e-12)).mean())

    low, high = math.log(0.05), math.log(20.0)
    for _ in range(40):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return math.exp((low + high) / 2)


def _is_share(rows: Rows) -> bool:
    return bool(np.all((rows >= 0) & (rows <= 1)))


def chosen(outputs: Mapping[str, NDArray[Any]], named: str | None) -> NDArray[Any]:
    """The output that is meant: the one that is named, or else the only one that it can be."""
    able = {
        name: values
        for name, values in outputs.items()
        if np.issubdtype(values.dtype, np.floating) and 1 <= values.ndim <= 2 and values.size
    }
    wanted = named or (USUAL if USUAL in able else None)
    if wanted is None and len(able) == 1:
        return next(iter(able.values()))
    if wanted in able:
        return able[wanted]
    raise DataError(
        "cascade-malformed",
        "cannot tell how sure the model is: its scores are not among its outputs",
        detail=f"Outputs with a number for each class: {', '.join(sorted(able)) or 'none'}.",
        hint='Name one in the cascade: "output".',
    )
