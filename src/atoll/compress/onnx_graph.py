"""An ONNX graph as it is read, brought into one shape, and written.

One shape means: constants are weights, a Gemm is a MatMul and an Add, every node has a name of its own, and
what an exporter noted of shapes within is forgotten, since it would no longer be true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from atoll.runtimes.onnx.refusals import unusable
from atoll.runtimes.onnx.source import find_model

BYTES_MAX = 2**31 - 2**20  # one message of Protocol Buffers
OPSET_MIN = 13
Array = NDArray[Any]


class Graph:
    def __init__(self, model: ModelProto, name: str) -> None:
        self.model = model
        self.name = name
        self.weights = {one.name: one for one in model.graph.initializer}

    def read(self, weight: str) -> Array:
        return np.asarray(numpy_helper.to_array(self.weights[weight]))

    def is_float(self, weight: str) -> bool:
        return weight in self.weights and self.weights[weight].data_type == TensorProto.FLOAT

    def hold(self, weight: str, value: Array) -> str:
        """Under this name from now on; whoever reads it reads the new one."""
        new = numpy_helper.from_array(np.ascontiguousarray(value), weight)
        if weight not in self.weights:
            self.weights[weight] = self.model.graph.initializer.add()
        self.weights[weight].CopyFrom(new)
        return weight

    def dense(self) -> list[NodeProto]:
        """Products with a weight, in the order in which they are computed."""
        return [node for node in self.model.graph.node if node.op_type == "MatMul" and self._is_table(node)]

    def _is_table(self, node: NodeProto) -> bool:
        return self.is_float(node.input[1]) and len(self.weights[node.input[1]].dims) == 2

    def rewrite(self, change: Callable[[NodeProto], Sequence[NodeProto]]) -> None:
        """Each node becomes what `change` makes of it. Weights that nobody reads any more, or that a node
        makes now, are dropped."""
        nodes = [NodeProto.FromString(new.SerializeToString()) for old in self.nodes() for new in change(old)]
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(nodes)
        wanted = set(_read(graph)) - {name for node in nodes for name in node.output}
        for kept in (graph.initializer, graph.input):
            for at in reversed(range(len(kept))):
                if kept[at].name in self.weights and kept[at].name not in wanted:
                    del kept[at]
        self.weights = {one.name: one for one in graph.initializer}

    def nodes(self) -> list[NodeProto]:
        return list(self.model.graph.node)

    def needs(self, domain: str, version: int) -> None:
        if all(one.domain != domain for one in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(domain, version))


def load(path: Path) -> Graph:
    """A file, with the weights that lie beside it, or a folder; DataError says what is wrong with it."""
    found, size = find_model(path)
    if size > BYTES_MAX:
        raise unusable(path.name, "its weights take more than 2 GB, which one ONNX file cannot hold")
    try:
        model = onnx.load_model_from_string(found) if isinstance(found, bytes) else onnx.load(str(found))
        graph = Graph(model, path.name)
        opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
        for name in graph.weights:
            if graph.is_float(name) and not np.isfinite(graph.read(name)).all():
                raise unusable(path.name, f'its weight "{name}" holds values that are no numbers')
        if opset < OPSET_MIN:
            raise unusable(
                path.name, f"its operators are of set {opset}", f"Export it again, with {OPSET_MIN} or later."
            )
        _bring_into_shape(graph)
    except (OSError, ValueError, onnx.checker.ValidationError, DecodeError) as error:
        raise unusable(path.name, f"it cannot be read: {error}") from error
    return graph


def save(graph: Graph, target: Path) -> None:
    if graph.model.ByteSize() > BYTES_MAX:
        raise unusable(graph.name, "what came of it takes more than 2 GB, which one ONNX file cannot hold")
    target.write_bytes(graph.model.SerializeToString())


def _bring_into_shape(graph: Graph) -> None:
    del graph.model.graph.value_info[:]
    taken: set[str] = set()

    def change(node: NodeProto) -> Sequence[NodeProto]:
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{len(taken)}_of_{node.output[0]}"
        taken.add(node.name)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.hold(node.output[0], np.asarray(numpy_helper.to_array(node.attribute[0].t)))
            return ()
        return _parted(graph, node) if node.op_type == "Gemm" else (node,)

    graph.rewrite(change)


def _parted(graph: Graph, node: NodeProto) -> Sequence[NodeProto]:
    told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    weight, is_turned = node.input[1], bool(told.pop("transB", 0))
    is_plain = all(value == (0 if name == "transA" else 1) for name, value in told.items())
    if not is_plain or not graph.is_float(weight):
        return (node,)
    if is_turned:
        weight = graph.hold(f"{weight}.turned", graph.read(weight).T)
    product = helper.make_node("MatMul", [node.input[0], weight], [*node.output], node.name)
    if len(node.input) < 3 or not node.input[2]:
        return (product,)
    product.output[0] = f"{node.output[0]}.product"
    added = helper.make_node("Add", [product.output[0], node.input[2]], [*node.output], f"{node.name}.add")
    return product, added


def reads(node: NodeProto) -> Iterator[str]:
    """Names that a node, or a graph within it, reads."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from _read(inner)


def _read(graph: Any) -> Iterator[str]:
    yield from (one.name for one in graph.output)
    for node in graph.node:
        yield from reads(node)
