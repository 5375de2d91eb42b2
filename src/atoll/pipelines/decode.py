"""What a row's expression gave becomes a model's inputs. Pure: a value, its kind, the inputs, some options.

A row's inputs have no axis for rows; `gather` puts rows of like shapes together. What does not fit is said of
the row, as DataError `row-unfit`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from atoll.domain.models import TensorFacts
from atoll.pipelines.arrays import to_array, unfit
from atoll.pipelines.images import read_image
from atoll.pipelines.sounds import read_sound
from atoll.runtimes.contract import Array

Row = dict[str, Array]


def decode(kind: str, value: Any, inputs: Sequence[TensorFacts], options: Mapping[str, Any]) -> Row:
    """A row's inputs, by their names."""
    if kind == "json" and isinstance(value, dict):
        return _by_name(value, inputs)
    if len(inputs) != 1:
        names = ", ".join(f'"{one.name}"' for one in inputs)
        raise unfit(f"the model has {len(inputs)} inputs", f"Give a JSON object with {names}, of kind json.")
    (facts,) = inputs
    match kind:
        case "image":
            return {facts.name: read_image(value, facts, options)}
        case "audio":
            return {facts.name: read_sound(value, facts, options)}
        case _:
            return {facts.name: to_array(value, facts)}


def _by_name(value: Mapping[str, Any], inputs: Sequence[TensorFacts]) -> Row:
    known = {one.name: one for one in inputs}
    if odd := sorted(value.keys() ^ known.keys()):
        verb = "is missing" if odd[0] in known else "is none of the model's"
        raise unfit(f'input "{odd[0]}" {verb}')
    return {name: to_array(value[name], facts) for name, facts in known.items()}


def gather(rows: Sequence[Row], inputs: Sequence[TensorFacts]) -> list[tuple[list[int], Row]]:
    """Rows of like shapes as one request, with their places. Alone where the model takes one row."""
    takes_many = all(facts.shape[:1] == (-1,) for facts in inputs)
    groups: defaultdict[Any, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        shapes = tuple((name, array.shape) for name, array in sorted(row.items()))
        groups[shapes if takes_many else place].append(place)
    return [
        (places, {name: np.stack([rows[place][name] for place in places]) for name in rows[places[0]]})
        for places in groups.values()
    ]
