"""ONNX models to measure with: dense layers with weights by chance."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def save_dense(path: Path, sizes: list[int], seed: int) -> Path:
    """Rows of sizes[0] numbers → rows of sizes[-1], with a ReLU after each layer."""
    rng = np.random.default_rng(seed)
    nodes, weights, at = [], [], "x"
    for number, (size, following) in enumerate(pairwise(sizes)):
        weight = rng.normal(scale=size**-0.5, size=(size, following)).astype(np.float32)
        weights.append(numpy_helper.from_array(weight, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [at, f"w{number}"], [f"p{number}"]))
        nodes.append(helper.make_node("Relu", [f"p{number}"], [at := f"r{number}"]))
    nodes.append(helper.make_node("Identity", [at], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", sizes[0]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", sizes[-1]])]
    graph = helper.make_graph(nodes, "dense", inputs, outputs, weights)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, path)
    return path
