"""A graph with fewer channels: which weights belong together is read off the graph, and the strongest stay.

Every convolution and product makes channels; what is computed on the way carries them along, and the next
convolution or product reads them. Channels that are added to each other stay or go together. Where it is not
known what becomes of channels, and where they leave the model, all of them stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, helper
from torch import Tensor

from atoll.compress.onnx_graph import Array, Graph
from atoll.compress.onnx_net import Net, attributes

SAME = {
    "Relu", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Softplus", "HardSwish", "HardSigmoid", "Gelu",
    "Erf", "Sqrt", "Exp", "Abs", "Neg", "Clip", "Identity", "Dropout", "Cast",
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
}  # fmt: skip
PAIRS = {"Add", "Sub", "Mul", "Div", "Pow", "PRelu"}
REDUCED = {"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"}


@dataclass(frozen=True)
class Part:
    """Some channels that lie side by side: those of a group, each so many times over."""

    group: int
    repeat: int = 1


@dataclass(frozen=True)
class Layout:
    """Along which axis of a value its channels lie, and whose they are."""

    axis: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tie:
    """An axis of a weight that has a place for each channel of a layout."""

    weight: str
    axis: int
    parts: tuple[Part, ...]


def narrow(graph: Graph, inputs: Mapping[str, Tensor], share: float) -> int:
    """In place; how many groups of channels are smaller. `inputs` are some rows, to see shapes by."""
    return _Channels(graph, Net(graph).values(inputs)).cut(share)


class _Channels:
    def __init__(self, graph: Graph, values: Mapping[str, Any]) -> None:
        self._graph = graph
        self._shapes = {name: tuple(one.shape) for name, one in values.items() if one is not None}
        self._sizes: list[int] = []
        self._joined: list[int] = []
        self._fixed: set[int] = set()
        self._ties: dict[tuple[str, int], Tie] = {}
        self._makers: set[tuple[str, int]] = set()
        self._depthwise: list[tuple[NodeProto, Layout]] = []
        self._flat: list[tuple[NodeProto, Layout]] = []
        self._layouts: dict[str, Layout] = {}
        for node in graph.nodes():
            self._follow(node)
        for output in graph.model.graph.output:
            self._fix(output.name)

    def cut(self, share: float) -> int:
        strengths = self._strengths()
        kept: dict[int, Array] = {}
        for group, strength in strengths.items():
            count = max(1, round(len(strength) * share))
            if group not in self._fixed and count < len(strength):
                kept[group] = np.sort(np.argsort(-strength, kind="stable")[:count])
        for tie in self._ties.values():
            value = self._graph.read(tie.weight)
            self._graph.hold(tie.weight, np.take(value, self._places(tie.parts, kept), tie.axis))
        for node, layout in self._depthwise:
            self._set(node, "group", len(self._places(layout.parts, kept)))
        for node, layout in self._flat:
            shape = [-1, len(self._places(layout.parts, kept))]
            self._graph.hold(f"{node.name}.shape", np.array(shape, np.int64))
            node.input[1] = f"{node.name}.shape"
        return len(kept)

    def _strengths(self) -> dict[int, Array]:
        """Of each channel of each group: how much the weights that make it weigh."""
        found: dict[int, Array] = {}
        for key in self._makers:
            tie = self._ties[key]
            value = np.moveaxis(self._graph.read(tie.weight).astype(np.float64), tie.axis, 0)
            group = self._root(tie.parts[0].group)
            found[group] = found.get(group, 0) + (value.reshape(len(value), -1) ** 2).sum(1)
        return found

    def _places(self, parts: tuple[Part, ...], kept: Mapping[int, Array]) -> Array:
        found, first = [], 0
        for part in parts:
            group = self._root(part.group)
            channels = kept.get(group, np.arange(self._sizes[group]))
            found.append(first + (channels[:, None] * part.repeat + np.arange(part.repeat)).ravel())
            first += self._sizes[group] * part.repeat
        return np.concatenate(found)

    def _follow(self, node: NodeProto) -> None:
        operator = node.op_type
        if operator == "Shape":  # it tells what there is, however many there are
            return
        follow: Callable[[NodeProto], Layout | None] | None = getattr(self, f"_{operator.lower()}", None)
        if operator in SAME:
            layout = self._layouts.get(node.input[0])
        elif operator in PAIRS:
            layout = self._pair(node)
        elif operator in REDUCED:
            layout = self._reduced(node)
        else:
            layout = follow(node) if follow is not None else None
        if layout is None or not self._fits(layout, self._shapes[node.output[0]]):
            for name in node.input:
                self._fix(name)
            return
        self._layouts[node.output[0]] = layout

    def _fits(self, layout: Layout, shape: tuple[int, ...]) -> bool:
        return layout.axis < len(shape) and shape[layout.axis] == self._width(layout)

    def _width(self, layout: Layout) -> int:
        return sum(self._sizes[self._root(part.group)] * part.repeat for part in layout.parts)

    def _conv(self, node: NodeProto) -> Layout | None:
        groups, before = attributes(node).get("group", 1), self._layouts.get(node.input[0])
        weight, bias = node.input[1], node.input[2] if len(node.input) > 2 else ""
        if not self._graph.is_float(weight):
            return None
        outputs = self._shapes[weight][0]
        if groups == 1:
            self._tie(weight, 1, before)
            after = Layout(1, (self._new(outputs),))
            self._make(weight, 0, after)
        elif before is not None and groups == outputs == self._width(before):
            after = before
            self._tie(weight, 0, after)
            self._depthwise.append((node, after))
        else:
            self._fix(node.input[0])
            after = Layout(1, (self._new(outputs),))
            self._fix_layout(after)
        if bias:
            self._tie(bias, 0, after)
        return after

    def _matmul(self, node: NodeProto) -> Layout | None:
        x, weight = node.input
        before, shape = self._layouts.get(x), self._shapes[x]
        if not self._graph.is_float(weight) or len(self._shapes[weight]) != 2:
            return None
        if before is not None and before.axis == len(shape) - 1:
            self._tie(weight, 0, before)
        else:
            self._fix(x)
        after = Layout(len(self._shapes[node.output[0]]) - 1, (self._new(self._shapes[weight][1]),))
        self._make(weight, 1, after)
        return after

    def _batchnormalization(self, node: NodeProto) -> Layout | None:
        layout = self._layouts.get(node.input[0])
        for name in node.input[1:] if layout is not None else ():
            self._tie(name, 0, layout)
        return layout

    def _pair(self, node: NodeProto) -> Layout | None:
        first, second = (self._carried(name, node) for name in node.input)
        if first is None or second is None:
            carried, other = (first, node.input[1]) if first is not None else (second, node.input[0])
            return carried if carried is not None and self._bears(other, carried, node) else None
        if first.axis != second.axis or len(first.parts) != len(second.parts):
            return None
        for one, other in zip(first.parts, second.parts, strict=True):
            sizes = [self._sizes[self._root(part.group)] for part in (one, other)]
            if one.repeat != other.repeat or sizes[0] != sizes[1]:
                return None
            self._join(one.group, other.group)
        return first

    def _carried(self, name: str, node: NodeProto) -> Layout | None:
        """As the result has it: shapes are lined up at their ends."""
        layout = self._layouts.get(name)
        if layout is None:
            return None
        more = len(self._shapes[node.output[0]]) - len(self._shapes[name])
        return Layout(layout.axis + more, layout.parts)

    def _bears(self, other: str, layout: Layout, node: NodeProto) -> bool:
        """Whether what it is paired with is the same for all channels, or a weight that can be cut."""
        shape = self._shapes[other]
        axis = layout.axis - (len(self._shapes[node.output[0]]) - len(shape))
        if axis < 0 or shape[axis] == 1:
            return True
        if not self._graph.is_float(other):
            return False
        self._tie(other, axis, layout)
        return True

    def _reduced(self, node: NodeProto) -> Layout | None:
        layout, told = self._layouts.get(node.input[0]), attributes(node)
        if layout is None or (len(node.input) > 1 and node.input[1] not in self._graph.weights):
            return None
        count = len(self._shapes[node.input[0]])
        listed = self._graph.read(node.input[1]) if len(node.input) > 1 else told.get("axes", ())
        axes = {int(axis) % count for axis in listed}
        if not axes or layout.axis in axes:
            return None
        gone = 0 if told.get("keepdims", 1) else sum(axis < layout.axis for axis in axes)
        return Layout(layout.axis - gone, layout.parts)

    def _flatten(self, node: NodeProto) -> Layout | None:
        return self._flattened(node) if attributes(node).get("axis", 1) == 1 else None

    def _reshape(self, node: NodeProto) -> Layout | None:
        layout = self._flattened(node)
        if layout is not None:
            self._flat.append((node, layout))
        return layout

    def _flattened(self, node: NodeProto) -> Layout | None:
        """A row for each row, and each channel's values side by side."""
        layout, before, after = (
            self._layouts.get(node.input[0]), self._shapes[node.input[0]], self._shapes[node.output[0]],
        )  # fmt: skip
        if layout is None or layout.axis != 1 or len(after) != 2 or before[0] != after[0]:
            return None
        inner = int(np.prod(before[2:]))
        return Layout(1, tuple(Part(part.group, part.repeat * inner) for part in layout.parts))

    def _transpose(self, node: NodeProto) -> Layout | None:
        layout, told = self._layouts.get(node.input[0]), attributes(node)
        count = len(self._shapes[node.input[0]])
        order = list(told.get("perm", range(count)[::-1]))
        return None if layout is None else Layout(order.index(layout.axis), layout.parts)

    def _concat(self, node: NodeProto) -> Layout | None:
        axis = attributes(node)["axis"] % len(self._shapes[node.output[0]])
        found = [self._layouts.get(name) for name in node.input]
        if any(one is None or one.axis != axis for one in found):
            return None
        return Layout(axis, tuple(part for one in found if one is not None for part in one.parts))

    def _new(self, size: int) -> Part:
        self._sizes.append(size)
        self._joined.append(len(self._joined))
        return Part(len(self._sizes) - 1)

    def _make(self, weight: str, axis: int, layout: Layout) -> None:
        self._tie(weight, axis, layout)
        self._makers.add((weight, axis))

    def _tie(self, weight: str, axis: int, layout: Layout | None) -> None:
        """A weight that is read twice has to be cut alike, or not at all."""
        if layout is None:
            return
        known = self._ties.get((weight, axis))
        if known is None:
            self._ties[weight, axis] = Tie(weight, axis, layout.parts)
        elif known.parts != layout.parts:
            self._fix_layout(Layout(axis, known.parts))
            self._fix_layout(layout)

    def _join(self, one: int, other: int) -> None:
        first, second = self._root(one), self._root(other)
        self._joined[second] = first
        if second in self._fixed:
            self._fixed.add(first)

    def _root(self, group: int) -> int:
        while self._joined[group] != group:
            group = self._joined[group]
        return group

    def _fix(self, name: str) -> None:
        if name in self._layouts:
            self._fix_layout(self._layouts[name])

    def _fix_layout(self, layout: Layout) -> None:
        self._fixed |= {self._root(part.group) for part in layout.parts}

    @staticmethod
    def _set(node: NodeProto, name: str, value: int) -> None:
        next(one for one in node.attribute if one.name == name).CopyFrom(helper.make_attribute(name, value))
