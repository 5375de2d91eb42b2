"""How weights with few bits are written into an ONNX graph, so that the runtime computes with just what they
restore to.

`keep_whole`: whole numbers of eight bits and a scale for each channel, turned back when the model is loaded:
a quarter of the bytes, as fast as before. `keep_rows`: a table of which only the rows that are asked for are
turned back. `keep_blocks`: MatMulNBits, which computes with four bits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto, TensorProto, helper

from atoll.compress.onnx_graph import Array, Graph

LEVEL_MAX = 127
MICROSOFT = "com.microsoft"


def keep_whole(graph: Graph, weight: str, axis: int) -> list[NodeProto]:
    """Nodes that make the weight again, to be put before whoever reads it."""
    levels, scales = whole_numbers(graph.read(weight), axis)
    return _restoring(graph.hold(f"{weight}.whole", levels), graph.hold(f"{weight}.scale", scales), weight)


def keep_rows(graph: Graph, node: NodeProto) -> list[NodeProto]:
    """In place of a Gather from a table."""
    table, places = node.input
    levels, scales = whole_numbers(graph.read(table), 0)
    held = (graph.hold(f"{table}.whole", levels), graph.hold(f"{table}.scale", scales))
    rows = [f"{node.output[0]}.{kind}" for kind in ("whole", "scale")]
    gathers = [
        helper.make_node("Gather", [one, places], [row], f"{node.name}.{number}", axis=0)
        for number, (one, row) in enumerate(zip(held, rows, strict=True))
    ]
    return [*gathers, *_restoring(rows[0], rows[1], node.output[0])]


def keep_blocks(graph: Graph, node: NodeProto, levels: Array, scales: Array, accuracy: int) -> NodeProto:
    """In place of a MatMul. Levels are from -8 to 7, a row for each output, as its groups of scales are."""
    outputs, width = levels.shape
    inputs = graph.weights[node.input[1]].dims[0]
    group = width // scales.shape[1]
    nibbles = (levels.astype(np.int16) + 8).astype(np.uint8).reshape(outputs, -1, group)
    packed = nibbles[..., 0::2] | nibbles[..., 1::2] << 4
    name = node.input[1]
    held = [graph.hold(f"{name}.nibbles", packed), graph.hold(f"{name}.scales", scales.astype(np.float32))]
    graph.needs(MICROSOFT, 1)
    return helper.make_node(
        "MatMulNBits",
        [node.input[0], *held],
        [*node.output],
        node.name,
        domain=MICROSOFT,
        K=inputs,
        N=outputs,
        bits=4,
        block_size=group,
        accuracy_level=accuracy,
    )


def whole_numbers(weight: Array, axis: int) -> tuple[Array, Array]:
    others = tuple(at for at in range(weight.ndim) if at != axis)
    scales = (np.abs(weight).max(axis=others, keepdims=True) / LEVEL_MAX).astype(np.float32)
    levels = np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0)
    return np.clip(levels.round(), -LEVEL_MAX, LEVEL_MAX).astype(np.int8), scales


def _restoring(levels: str, scales: str, target: str) -> list[NodeProto]:
    wide = f"{target}.wide"
    return [
        helper.make_node("Cast", [levels], [wide], wide, to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scales], [target], f"{target}.restored"),
    ]


def before_all(graph: Graph, nodes: Sequence[NodeProto]) -> None:
    """Weights that are made again are there before anybody reads them."""
    first = graph.nodes()[0].name
    graph.rewrite(lambda node: [*nodes, node] if node.name == first else [node])
