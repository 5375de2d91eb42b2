"""Four bits for the products of a graph: rounded to the nearest, or solved by GPTQ from what comes in.

Products are taken in the order in which they are computed, those of one input together, and each sees what
the ones before it became. Kept in memory is the graph, and the sums of one input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from onnx import ModelProto, NodeProto, helper

from atoll.compress import gptq
from atoll.compress.onnx_graph import Array, Graph, reads
from atoll.compress.onnx_rows import Request
from atoll.compress.steps import Say
from atoll.domain.errors import DataError
from atoll.runtimes.onnx.engine import Engine, Loading, Stop
from atoll.runtimes.onnx.wants import Wants

WIDTH_MAX = 8192  # of an input whose sums are kept: 256 MB
ROWS_MAX = 262_144


@dataclass(frozen=True)
class Rounding:
    node: NodeProto
    rounded: gptq.Rounded
    is_too_wide: bool = False  # for a calibration: to the nearest, though GPTQ was wanted


def round_all(
    graph: Graph, chosen: Sequence[NodeProto], group: int, requests: Sequence[Request], say: Say
) -> list[Rounding]:
    """The graph holds afterwards what the levels restore to. Without requests, to the nearest."""
    found = []
    alike = [list(same) for _, same in groupby(chosen, lambda node: str(node.input[0]))]
    for number, nodes in enumerate(alike, 1):
        say(f"rounding {number} of {len(alike)}")
        hessian = _sums(graph, nodes[0], requests) if requests else None
        for node in nodes:
            rounded = _round(graph.read(node.input[1]).T, hessian, group)
            found.append(Rounding(node, rounded, bool(requests) and hessian is None))
            width = graph.weights[node.input[1]].dims[0]
            graph.hold(node.input[1], rounded.restored()[:, :width].T.numpy())
    return found


def _round(weight: Array, hessian: torch.Tensor | None, group: int) -> gptq.Rounded:
    """A row for each output; the last group is filled up with inputs that never come."""
    outputs, width = weight.shape
    wide = torch.zeros(outputs, -(-width // group) * group)
    wide[:, :width] = torch.from_numpy(weight.copy())
    if hessian is None:
        return gptq.nearest(wide, group)
    filled = torch.zeros(wide.shape[1], wide.shape[1])
    filled[:width, :width] = hessian
    return gptq.solve(wide, filled, group)


def _sums(graph: Graph, node: NodeProto, requests: Sequence[Request]) -> torch.Tensor | None:
    """Of what comes in, times itself; None where it is too wide to be kept."""
    width = graph.weights[node.input[1]].dims[0]
    if width > WIDTH_MAX:
        return None
    total, count = torch.zeros(width, width), 0
    for values in _inputs(graph, node, requests):
        flat = torch.from_numpy(values).reshape(-1, width)
        total.addmm_(flat.T, flat)
        count += len(flat)
        if count > ROWS_MAX:
            break
    if not torch.isfinite(total).all():
        raise DataError("model-unusable", "cannot calibrate: the model makes values that are no numbers")
    return total / count


def _inputs(graph: Graph, node: NodeProto, requests: Sequence[Request]) -> Iterator[Array]:
    wanted = node.input[0]
    if wanted in requests[0]:
        yield from (request[wanted] for request in requests)
        return
    engine = Engine(_until(graph, wanted).SerializeToString(), graph.name, Loading(Wants()))
    for request in requests:
        given = {facts.name: request[facts.name] for facts in engine.inputs}
        yield engine.run(given, [wanted], Stop())[wanted]


def _until(graph: Graph, wanted: str) -> ModelProto:
    """The graph as far as it is needed to make one value."""
    needed, nodes = {wanted}, []
    for node in reversed(graph.nodes()):
        if needed & set(node.output):
            nodes.append(node)
            needed |= set(reads(node))
    model = ModelProto()
    model.ir_version = graph.model.ir_version
    model.opset_import.extend(graph.model.opset_import)
    model.functions.extend(graph.model.functions)
    model.graph.name = "part"
    model.graph.node.extend(reversed(nodes))
    model.graph.input.extend(one for one in graph.model.graph.input if one.name in needed)
    model.graph.initializer.extend(one for one in graph.model.graph.initializer if one.name in needed)
    model.graph.output.append(helper.make_empty_tensor_value_info(wanted))
    return model
