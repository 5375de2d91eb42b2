"""Small ONNX models, made with the onnx package; what has to come out of them can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSION, OPSET = 10, 17
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
WEIGHT = np.arange(-6, 6, dtype=np.float32).reshape(4, 3) / 4
BIAS = np.array([0.5, -1.0, 2.0], np.float32)


def scores(x: NDArray[Any]) -> NDArray[Any]:
    """What the model of `tiny_onnx` has to say."""
    return np.maximum(x @ WEIGHT + BIAS, 0)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[tuple[str, int, Sequence[int | str]]],
    outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    **weights: NDArray[Any],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*told) for told in inputs],
        [helper.make_tensor_value_info(*told) for told in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, producer_name="by hand", opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def save_tiny(path: Path, weight: NDArray[Any] = WEIGHT) -> Path:
    """Rows of four numbers → three scores each, and which of them is the highest."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ]
    inputs = [("x", FLOAT, ["rows", 4])]
    outputs = [("scores", FLOAT, ["rows", 3]), ("best", INT64, ["rows"])]
    return save(path, nodes, inputs, outputs, weight=weight, bias=BIAS)


def save_echo(path: Path, kinds: Sequence[int]) -> Path:
    """Gives back what it is given: one input and output of each kind, of any shape of two dimensions."""
    nodes = [helper.make_node("Identity", [f"in{kind}"], [f"out{kind}"]) for kind in kinds]
    shape = ["rows", "columns"]
    return save(path, nodes, [(f"in{k}", k, shape) for k in kinds], [(f"out{k}", k, shape) for k in kinds])


def save_slow(path: Path) -> Path:
    """Multiplies matrices as often as it is told: as slow as one likes, and can be stopped in between."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["held", "unit"], ["next"]),
            helper.make_node("Identity", ["going"], ["still"]),
        ],
        "round",
        [
            helper.make_tensor_value_info("round", INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("held", FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [256, 256]),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["rounds", "", "unit"], ["last"], body=body),
        helper.make_node("ReduceSum", ["last"], ["total"], keepdims=0),
    ]
    unit = np.eye(256, dtype=np.float32)
    return save(path, nodes, [("rounds", INT64, [])], [("total", FLOAT, [])], unit=unit)


def save_lookup(path: Path) -> Path:
    """Looks indices up in a table of ten; one that is not in it is an error of the engine."""
    nodes = [helper.make_node("Gather", ["table", "index"], ["found"])]
    table = np.arange(10, dtype=np.float32) * 1.5
    return save(path, nodes, [("index", INT64, ["rows"])], [("found", FLOAT, ["rows"])], table=table)


def save_centred(path: Path) -> Path:
    """Takes the mean of all rows from each: what a row gets depends on the others."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["y"]),
    ]
    return save(path, nodes, [("x", FLOAT, ["rows", 4])], [("y", FLOAT, ["rows", 4])])


def save_int8(path: Path) -> Path:
    """Dynamically quantized: the scale is made from all rows, so that one row's values change another's."""
    weight = np.round(WEIGHT * 20).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["q", "weight", "zero"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["product"], to=FLOAT),
        helper.make_node("Mul", ["product", "scale"], ["y"]),
    ]
    return save(path, nodes, [("x", FLOAT, ["rows", 4])], [("y", FLOAT, ["rows", 3])], weight=weight)
