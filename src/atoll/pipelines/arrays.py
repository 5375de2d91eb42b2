"""Plain values become arrays of the type and shape that an input of a model has. Pure."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from atoll.domain.errors import DataError
from atoll.domain.models import TensorFacts
from atoll.runtimes.contract import Array

KINDS = {
    **{f"{sign.upper()}INT{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}


def unfit(message: str, detail: str | None = None) -> DataError:
    return DataError("row-unfit", message, detail=detail)


def to_array(value: Any, facts: TensorFacts) -> Array:
    """A value in the type and shape of an input, whose first size is that of the rows."""
    if isinstance(value, str) and facts.datatype != "BYTES":
        try:
            value = json.loads(value)  # a type that the driver does not know, such as a vector
        except ValueError:
            raise unfit(f'input "{facts.name}" is a text, and the model wants {facts.datatype}') from None
    if facts.datatype not in KINDS:
        raise unfit(f'input "{facts.name}" is {facts.datatype}, which rows cannot be made into')
    try:
        array = np.asarray(value, KINDS[facts.datatype])
    except (TypeError, ValueError, OverflowError) as error:
        raise unfit(f'input "{facts.name}" cannot be made {facts.datatype}', f"{error}.") from None
    if array.dtype.kind == "f" and np.isnan(array).any() and None in np.asarray(value, object):
        raise unfit(f'input "{facts.name}" has a null in it')
    return _in_shape(array, facts)


def _in_shape(array: Array, facts: TensorFacts) -> Array:
    """As it is if it fits, else with its values laid out anew, where there is one way to do so."""
    wanted = facts.shape[1:]
    if len(array.shape) == len(wanted) and all(
        size in (-1, given) for size, given in zip(wanted, array.shape, strict=True)
    ):
        return array
    if list(wanted).count(-1) <= 1:
        try:
            return array.reshape(wanted)
        except ValueError:
            pass
    raise unfit(
        f'input "{facts.name}" has shape {list(array.shape)}, and the model wants {list(wanted)} for a row'
    )
