"""Rows of a request for a tensor model: which go on to a larger model, and back to where they were. Pure.

Only where every input and output of both models has one row for each of the request's. Elsewhere the whole
request goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import DataError

Arrays = Mapping[str, NDArray[Any]]


def unsure(
    sure: NDArray[np.float64], threshold: float, inputs: Arrays, outputs: Arrays
) -> NDArray[np.intp] | None:
    """Numbers of the rows below the threshold; None where they cannot be parted, or are all."""
    every = [*inputs.values(), *outputs.values()]
    if any(array.shape[:1] != sure.shape for array in every):
        return None
    chosen = np.flatnonzero(sure < threshold)
    return chosen if len(chosen) < len(sure) else None


def take(arrays: Arrays, chosen: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    return {name: array[chosen] for name, array in arrays.items()}


def put(small: Arrays, large: Arrays, chosen: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """The small model's outputs with the larger one's in the rows that went on."""
    found = {}
    for name, array in small.items():
        given = large.get(name)
        if given is None or given.shape != (len(chosen), *array.shape[1:]):
            raise DataError(
                "cascade-malformed",
                f'cannot put two models\' rows together: their output "{name}" differs',
                hint='Let whole requests go on: "split_rows": false',
            )
        whole = array.astype(np.promote_types(array.dtype, given.dtype))
        whole[chosen] = given
        found[name] = whole
    return found
