"""The graph of a BERT encoder, made from its safetensors and its config.json, so that no torch is needed.

Tokens to one vector each, `last_hidden_state`, as Hugging Face's BertModel gives it. Other encoders have to
be exported to ONNX where they were trained. Written with the optional package `onnx`.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.runtimes.onnx.refusals import unusable

HEADER_BYTES_MAX = 16 * 1024**2
IR_VERSION, OPSET = 10, 20
KINDS = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
ACTIVATIONS = {"gelu": {}, "gelu_new": {"approximate": "tanh"}}
HIDDEN = -1e4
EXPORT = "Export it to ONNX where it was trained."
EXTRA = "Install atoll[encoders]."
Weights = dict[str, NDArray[Any]]


def make_graph(folder: Path) -> bytes:
    name = folder.name
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise unusable(name, "to read safetensors, the package onnx is needed", EXTRA) from error
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kind, activation = config["model_type"], config["hidden_act"]
        if kind != "bert" or activation not in ACTIVATIONS:
            raise unusable(name, f"no graph is known for {kind} with {activation}", EXPORT)
        return _Graph(config, _read_weights(folder / "model.safetensors")).build()
    except (OSError, KeyError, ValueError, TypeError, AttributeError, struct.error) as error:
        raise unusable(name, f"its weights or its config.json are damaged: {error!r}", EXPORT) from error


def _read_weights(path: Path) -> Weights:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > HEADER_BYTES_MAX:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", offset=8 + length)
    found: Weights = {}
    for name, told in header.items():
        if name != "__metadata__":
            first, last = told["data_offsets"]
            array = data[first:last].view(KINDS[told["dtype"]]).reshape(told["shape"])
            found[name.removeprefix("bert.")] = array if array.dtype.kind == "i" else array.astype(np.float32)
    return found


class _Graph:
    """Nodes and weights, as they are added."""

    def __init__(self, config: dict[str, Any], weights: Weights) -> None:
        self._config = config
        self._weights = weights
        self._nodes: list[Any] = []
        self._held: list[Any] = []

    def build(self) -> bytes:
        from onnx import TensorProto, helper

        config = self._config
        self._hold("hidden_mask", np.array(HIDDEN, np.float32))
        self._hold("one", np.array(1, np.float32))
        self._hold("ahead", np.array([1, 2], np.int64))
        shape = [0, 0, config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]]
        self._hold("heads", np.array(shape, np.int64))
        self._hold("whole", np.array([0, 0, config["hidden_size"]], np.int64))
        self._hold("scale", np.array(shape[3] ** -0.5, np.float32))
        at = self._embed()
        mask = self._add("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        absent = self._add("Sub", ["one", self._add("Unsqueeze", [mask, "ahead"])])
        hidden = self._add("Mul", [absent, "hidden_mask"])
        for number in range(config["num_hidden_layers"]):
            at = self._layer(f"encoder.layer.{number}", at, hidden)
        self._nodes.append(helper.make_node("Identity", [at], ["last_hidden_state"]))
        tokens = ["batch", "tokens"]
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [
                helper.make_tensor_value_info(name, TensorProto.INT64, tokens)
                for name in ("input_ids", "attention_mask", "token_type_ids")
            ],
            [
                helper.make_tensor_value_info(
                    "last_hidden_state", TensorProto.FLOAT, [*tokens, config["hidden_size"]]
                )
            ],
            self._held,
        )
        operators = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=operators)
        return bytes(model.SerializeToString())

    def _embed(self) -> str:
        words = self._add("Gather", [self._weight("embeddings.word_embeddings.weight"), "input_ids"])
        kinds = self._add(
            "Gather", [self._weight("embeddings.token_type_embeddings.weight"), "token_type_ids"]
        )
        self._hold("zero", np.array([0], np.int64))
        length = self._add("Shape", ["input_ids"], start=1, end=2)
        places = self._weight("embeddings.position_embeddings.weight")
        places = self._add("Slice", [places, "zero", length, "zero"])
        added = self._add("Add", [self._add("Add", [words, kinds]), places])
        return self._norm("embeddings.LayerNorm", added)

    def _layer(self, name: str, at: str, hidden: str) -> str:
        query, key, value = (
            self._add("Reshape", [self._dense(f"{name}.attention.self.{part}", at), "heads"])
            for part in ("query", "key", "value")
        )
        query = self._add("Mul", [self._add("Transpose", [query], perm=[0, 2, 1, 3]), "scale"])
        key = self._add("Transpose", [key], perm=[0, 2, 3, 1])
        value = self._add("Transpose", [value], perm=[0, 2, 1, 3])
        scores = self._add("Add", [self._add("MatMul", [query, key]), hidden])
        mixed = self._add("MatMul", [self._add("Softmax", [scores], axis=-1), value])
        mixed = self._add("Reshape", [self._add("Transpose", [mixed], perm=[0, 2, 1, 3]), "whole"])
        mixed = self._dense(f"{name}.attention.output.dense", mixed)
        at = self._norm(f"{name}.attention.output.LayerNorm", self._add("Add", [mixed, at]))
        wide = self._dense(f"{name}.intermediate.dense", at)
        wide = self._add("Gelu", [wide], **ACTIVATIONS[self._config["hidden_act"]])
        wide = self._dense(f"{name}.output.dense", wide)
        return self._norm(f"{name}.output.LayerNorm", self._add("Add", [wide, at]))

    def _dense(self, name: str, at: str) -> str:
        self._hold(f"{name}.turned", np.ascontiguousarray(self._weights[f"{name}.weight"].T))
        product = self._add("MatMul", [at, f"{name}.turned"])
        return self._add("Add", [product, self._weight(f"{name}.bias")])

    def _norm(self, name: str, at: str) -> str:
        parts = [at, self._weight(f"{name}.weight"), self._weight(f"{name}.bias")]
        return self._add("LayerNormalization", parts, axis=-1, epsilon=self._config["layer_norm_eps"])

    def _weight(self, name: str) -> str:
        self._hold(name, self._weights[name])
        return name

    def _hold(self, name: str, value: NDArray[Any]) -> None:
        from onnx import numpy_helper

        self._held.append(numpy_helper.from_array(np.asarray(value), name))

    def _add(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        from onnx import helper

        name = f"{operator}{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name
