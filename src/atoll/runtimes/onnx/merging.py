"""Running small requests that wait for the same model together, as rows of one.

Pure. What is merged has one shape per row and asks for the same; the order stays. Whether a model keeps its
rows apart is tried before anything is merged: a mean over the rows, or a scale made from all of them as in
dynamic quantization, would let one caller's values into another's result.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from atoll.domain.models import TensorFacts
from atoll.runtimes.contract import Array
from atoll.runtimes.onnx.inputs import KINDS

Run = Callable[[dict[str, Array]], Mapping[str, Array]]
TRIALS = 2
FREE_SIZE = 6
TOLERANCES = {"float16": 2e-3, "float32": 1e-4, "float64": 1e-7}


def rows_of(inputs: Mapping[str, Array]) -> int:
    """How many rows a request has; 0 where its inputs do not agree on it."""
    sizes = {array.shape[0] if array.shape else 0 for array in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else 0


def likeness(inputs: Mapping[str, Array], wanted: Sequence[str]) -> Hashable:
    """Requests that have the same can be merged."""
    return (*wanted, *((name, array.dtype.str, array.shape[1:]) for name, array in sorted(inputs.items())))


def merge(requests: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([request[name] for request in requests]) for name in requests[0]}


def part(outputs: Mapping[str, Array], rows: Sequence[int]) -> list[dict[str, Array]]:
    """Each request's rows, copied: who keeps one must not keep the others' memory."""
    ends = np.cumsum(rows).tolist()
    return [
        {name: array[end - size : end].copy() for name, array in outputs.items()}
        for size, end in zip(rows, ends, strict=True)
    ]


def keeps_rows_apart(inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts], run: Run) -> bool:
    """Tried with rows of very different sizes: together they have to give what each gives alone."""
    if not all(facts.shape[:1] == (-1,) and facts.datatype != "BYTES" for facts in (*inputs, *outputs)):
        return False
    rng = np.random.default_rng(1)
    try:
        for _ in range(TRIALS):
            alone = [make_request(inputs, rows, rng) for rows in (1, 2, 1)]
            apart = [run(request) for request in alone]
            together = run(merge(alone))
            wanted = merge(apart)
            if not all(_is_close(together[name], wanted[name]) for name in wanted):
                return False
    except Exception:
        return False  # it cannot be tried, or not with such values
    return True


def make_request(inputs: Sequence[TensorFacts], rows: int, rng: np.random.Generator) -> dict[str, Array]:
    """Values of all sizes; whole numbers are 0 or 1, which every table has."""
    found: dict[str, Array] = {}
    for facts in inputs:
        shape = [rows if at == 0 else FREE_SIZE if size < 0 else size for at, size in enumerate(facts.shape)]
        if facts.datatype.startswith("FP"):
            scales = 10.0 ** rng.integers(-2, 3, size=[shape[0]] + [1] * (len(shape) - 1)) if shape else 1.0
            values = rng.normal(size=shape) * scales
        else:
            values = rng.integers(0, 2, size=shape)
        found[facts.name] = np.asarray(values).astype(KINDS[facts.datatype])
    return found


def _is_close(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    tolerance = TOLERANCES.get(one.dtype.name)
    if tolerance is None:
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True))
