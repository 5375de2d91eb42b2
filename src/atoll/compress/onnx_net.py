"""An ONNX graph as a network that torch can teach: each operator as torch has it, each weight under its name.

What is learned are the weights of convolutions, products and norms, with what is added to them. Operators
that are missing here are told by name. Normalization takes the averages of the file and keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper
from torch import Tensor, nn
from torch.nn import functional

from atoll.compress.onnx_graph import Graph
from atoll.runtimes.onnx.refusals import unusable

Given = Sequence[Any]  # a tensor for each input of an operator, None where one is left out
Told = Mapping[str, Any]
Operator = Callable[[Given, Told], Tensor]

# Which inputs of an operator are learned where they are weights; of an Add only what is added to a product.
LEARNED = {
    "Conv": (1, 2), "MatMul": (0, 1), "Gemm": (1, 2), "Add": (0, 1), "PRelu": (1,),
    "BatchNormalization": (1, 2), "LayerNormalization": (1, 2),
}  # fmt: skip
CAST = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.BOOL: torch.bool,
}


PRODUCTS = ("Conv", "MatMul", "Gemm")


class Untaught(Exception):
    """An operator is used in a way that torch does not know here."""


class Net(nn.Module):
    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._name = graph.name
        self._nodes = [(node, attributes(node)) for node in graph.nodes()]
        for node, _ in self._nodes:
            if node.op_type not in OPERATORS:
                raise unusable(graph.name, f"it computes {node.op_type}, which cannot be taught here")
        products = {node.output[0] for node, _ in self._nodes if node.op_type in PRODUCTS}
        learned = {name for node, _ in self._nodes for name in learned_of(node, graph, products)}
        self._scales = {node.input[1] for node, _ in self._nodes if node.op_type.endswith("Normalization")}
        self._held = nn.ParameterDict()
        self._names = {name: str(number) for number, name in enumerate(graph.weights)}
        for name, key in self._names.items():
            value = torch.from_numpy(np.array(graph.read(name)))
            self._held[key] = nn.Parameter(value, requires_grad=name in learned)

    def values(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """All that is computed on the way, by its name."""
        known: dict[str, Any] = {"": None, **inputs}
        known |= {name: self._held[key] for name, key in self._names.items()}
        for node, told in self._nodes:
            try:
                known[node.output[0]] = OPERATORS[node.op_type]([known[name] for name in node.input], told)
            except (Untaught, RuntimeError, KeyError) as error:
                raise unusable(
                    self._name, f"its {node.op_type} cannot be taught here: {error}", "Export it more simply."
                ) from error
        return known

    def forward(self, inputs: Mapping[str, Tensor], output: str) -> Tensor:
        found: Tensor = self.values(inputs)[output]
        return found

    def begin_anew(self, seed: int) -> None:
        """Kernels and tables by chance, as wide as what they sum up asks for; what is added begins at 0."""
        torch.manual_seed(seed)
        for name, key in self._names.items():
            value = self._held[key]
            if value.requires_grad and value.dim() > 1:
                nn.init.kaiming_normal_(value if value.dim() > 2 else value.T, nonlinearity="relu")
            elif value.requires_grad:
                nn.init.constant_(value, float(name in self._scales))

    def learned(self) -> dict[str, np.ndarray[Any, Any]]:
        return {
            name: self._held[key].detach().numpy()
            for name, key in self._names.items()
            if self._held[key].requires_grad
        }


def attributes(node: NodeProto) -> dict[str, Any]:
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


def learned_of(node: NodeProto, graph: Graph, products: set[str]) -> list[str]:
    if node.op_type == "Add" and not products & {*node.input}:
        return []
    places = LEARNED.get(node.op_type, ())
    found = [node.input[at] for at in places if at < len(node.input)]
    return [name for name in found if graph.is_float(name) and graph.weights[name].dims]


def _conv(given: Given, told: Told) -> Tensor:
    x, weight, *bias = given
    way = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.dim() - 3]
    x = _padded(x, told, 0.0)
    steps = {"stride": told.get("strides", 1), "dilation": told.get("dilations", 1)}
    return way(x, weight, bias[0] if bias else None, groups=told.get("group", 1), **steps)


def _pool(ways: Sequence[Callable[..., Tensor]], filler: float) -> Operator:
    def pool(given: Given, told: Told) -> Tensor:
        kernel = told["kernel_shape"]
        if told.get("ceil_mode") or any(one != 1 for one in told.get("dilations", ())):
            raise Untaught("pooling with gaps, or with more than there is")
        if filler == 0 and any(told.get("pads", ())) and not told.get("count_include_pad"):
            raise Untaught("averages at the edges that leave out what was filled up")
        x = _padded(given[0], told, filler)
        return ways[len(kernel) - 1](x, kernel, told.get("strides", [1] * len(kernel)))

    return pool


def _padded(x: Tensor, told: Told, value: float) -> Tensor:
    if told.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise Untaught("edges that are filled up by themselves (auto_pad)")
    pads = told.get("pads", ())
    half = len(pads) // 2
    ordered = [pads[at + side] for at in reversed(range(half)) for side in (0, half)]
    return functional.pad(x, ordered, value=value) if any(pads) else x


def _gemm(given: Given, told: Told) -> Tensor:
    first = given[0].T if told.get("transA") else given[0]
    second = given[1].T if told.get("transB") else given[1]
    product = told.get("alpha", 1.0) * (first @ second)
    return product + told.get("beta", 1.0) * given[2] if len(given) > 2 else product


def _reduce(way: Callable[..., Tensor]) -> Operator:
    def reduce(given: Given, told: Told) -> Tensor:
        axes = _axes(given, told)
        if axes is None and told.get("noop_with_empty_axes"):
            return given[0]  # type: ignore[no-any-return]
        wanted = axes if axes is not None else list(range(given[0].dim()))
        return way(given[0], wanted, keepdim=bool(told.get("keepdims", 1)))

    return reduce


def _axes(given: Given, told: Told) -> list[int] | None:
    """Older operators have them as an attribute, newer ones as an input."""
    if len(given) > 1 and given[1] is not None:
        return [int(one) for one in given[1].flatten()]
    return list(told["axes"]) if "axes" in told else None


def _reshape(given: Given, told: Told) -> Tensor:
    x, wanted = given[0], [int(one) for one in given[1]]
    if not told.get("allowzero"):
        wanted = [x.shape[at] if size == 0 else size for at, size in enumerate(wanted)]
    return x.reshape(wanted)  # type: ignore[no-any-return]


def _flatten(given: Given, told: Told) -> Tensor:
    axis = told.get("axis", 1)
    return given[0].reshape(int(np.prod(given[0].shape[:axis])), -1)  # type: ignore[no-any-return]


def _unsqueeze(given: Given, told: Told) -> Tensor:
    x, axes = given[0], _axes(given, told) or []
    for axis in sorted(one % (x.dim() + len(axes)) for one in axes):
        x = x.unsqueeze(axis)
    return x  # type: ignore[no-any-return]


def _squeeze(given: Given, told: Told) -> Tensor:
    axes = _axes(given, told)
    return given[0].squeeze() if axes is None else given[0].squeeze(axes)  # type: ignore[no-any-return]


def _clip(given: Given, told: Told) -> Tensor:
    bounds = [*given[1:], None, None][:2] if len(given) > 1 else [told.get("min"), told.get("max")]
    return torch.clamp(given[0], *bounds) if any(one is not None for one in bounds) else given[0]


def _norm(given: Given, told: Told) -> Tensor:
    x, weight, *bias = given
    axis = told.get("axis", -1) % x.dim()
    return functional.layer_norm(
        x, x.shape[axis:], weight, bias[0] if bias else None, told.get("epsilon", 1e-5)
    )


def _batch_norm(given: Given, told: Told) -> Tensor:
    x, scale, bias, mean, variance = given
    return functional.batch_norm(
        x, mean, variance, scale, bias, training=False, eps=told.get("epsilon", 1e-5)
    )


def _one(way: Callable[[Tensor], Tensor]) -> Operator:
    return lambda given, told: way(given[0])


def _two(way: Callable[[Any, Any], Tensor]) -> Operator:
    return lambda given, told: way(given[0], given[1])


def _whole(way: Callable[..., Tensor]) -> Operator:
    """Over all that a channel has."""
    return lambda given, told: way(given[0], list(range(2, given[0].dim())), keepdim=True)


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "MatMul": _two(torch.matmul),
    "Gemm": _gemm,
    "MaxPool": _pool((functional.max_pool1d, functional.max_pool2d, functional.max_pool3d), -torch.inf),
    "AveragePool": _pool((functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d), 0.0),
    "GlobalAveragePool": _whole(torch.mean),
    "GlobalMaxPool": _whole(torch.amax),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _norm,
    "ReduceMean": _reduce(torch.mean),
    "ReduceSum": _reduce(torch.sum),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMin": _reduce(torch.amin),
    "Add": _two(torch.add),
    "Sub": _two(torch.sub),
    "Mul": _two(torch.mul),
    "Div": _two(torch.div),
    "Pow": _two(torch.pow),
    "Sqrt": _one(torch.sqrt),
    "Exp": _one(torch.exp),
    "Log": _one(torch.log),
    "Neg": _one(torch.neg),
    "Abs": _one(torch.abs),
    "Erf": _one(torch.erf),
    "Relu": _one(torch.relu),
    "Sigmoid": _one(torch.sigmoid),
    "Tanh": _one(torch.tanh),
    "Softplus": _one(functional.softplus),
    "HardSwish": _one(functional.hardswish),
    "HardSigmoid": lambda given, told: torch.clamp(
        told.get("alpha", 0.2) * given[0] + told.get("beta", 0.5), 0, 1
    ),
    "LeakyRelu": lambda given, told: functional.leaky_relu(given[0], told.get("alpha", 0.01)),
    "Elu": lambda given, told: functional.elu(given[0], told.get("alpha", 1.0)),
    "PRelu": lambda given, told: torch.where(given[0] < 0, given[0] * given[1], given[0]),
    "Gelu": lambda given, told: functional.gelu(
        given[0], approximate=told.get("approximate", b"none").decode()
    ),
    "Clip": _clip,
    "Softmax": lambda given, told: torch.softmax(given[0], told.get("axis", -1)),
    "LogSoftmax": lambda given, told: torch.log_softmax(given[0], told.get("axis", -1)),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda given, told: given[0].permute(told.get("perm", list(range(given[0].dim()))[::-1])),
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Concat": lambda given, told: torch.cat(list(given), told["axis"]),
    "Identity": _one(lambda x: x),
    "Dropout": _one(lambda x: x),
    "Cast": lambda given, told: given[0].to(CAST[told["to"]]),
    "Shape": lambda given, told: torch.tensor(given[0].shape[told.get("start", 0) : told.get("end")]),
    "Gather": lambda given, told: _gather(given[0], given[1], told.get("axis", 0)),
}


def _gather(x: Tensor, places: Tensor, axis: int) -> Tensor:
    found = x.index_select(axis, places.flatten())
    return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])
