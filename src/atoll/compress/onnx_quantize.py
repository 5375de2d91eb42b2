"""The step that makes a model in ONNX smaller: eight bits, or four where it multiplies by large weights.

`int8` computes large products with whole numbers, whose scale is found anew for every request; kernels of
convolutions and small weights are kept in eight bits and computed with as before, tables row by row. In
`int8-static` all activations have a scale from the calibration. `q4` is onnx_gptq.py's.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from onnx import NodeProto

from atoll.compress.folder import fresh
from atoll.compress.onnx_graph import Graph, load, save
from atoll.compress.onnx_packing import before_all, keep_blocks, keep_rows, keep_whole
from atoll.compress.onnx_rows import Model, Request, Rows, read_rows
from atoll.compress.steps import ONNX_FORMS, Facts, Say, malformed, read_options, require
from atoll.runtimes.onnx.refusals import unusable

METHODS = ("gptq", "rtn")
GROUPS = (32, 64, 128)
KEPT_MIN = 1024  # weights; smaller ones stay as they are
COMPUTED_MIN = 65_536  # below, finding a scale costs more than it saves
ROWS_MAX = 4096
PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
    "labels.json",
    "README.md",
    "LICENSE",
)


@dataclass(frozen=True)
class Options:
    to: str = "int8"
    method: str | None = None  # of q4: gptq with a calibration, else rtn
    group: int = 32
    calibration: Path | None = None
    rows: int = 128


class Made(NamedTuple):
    changed: int  # weights
    graph: Graph
    notes: tuple[str, ...] = ()  # what a person would not expect


def quantize(source: Path, target: Path, options: Mapping[str, Any], say: Say) -> Facts:
    """A file from a file; from a folder, one with the new model and what lies beside it."""
    asked = check(read_options(Options, options))
    say("reading weights")
    graph, model = load(source), Model(source)
    rows = Rows(()) if asked.calibration is None else read_rows(asked.calibration, model, asked.rows)
    made = {"int8": _to_int8, "int8-static": _to_static, "q4": _to_q4}[asked.to]
    changed, smaller, notes = made(graph, asked, rows.requests, say)
    if not changed:
        raise unusable(
            source.name,
            f"it has no weights that {asked.to} makes smaller",
            "int8 takes kernels and tables too. Weights have to be in 32 bits.",
        )
    say("writing")
    with fresh(target) as partial:
        file = partial
        if source.is_dir():
            file = partial / "model.onnx"
            bring_along(source, partial)
        save(smaller, file)
        Model(partial)
        size = file.stat().st_size
    return {
        "form": asked.to,
        "method": method_of(asked) if asked.to == "q4" else None,
        "weights": changed,
        "calibration_requests": len(rows.requests),
        "bytes": size,
        "notes": notes,
    }


def check(asked: Options) -> Options:
    if asked.to not in ONNX_FORMS:
        raise malformed(f'there is no form "{asked.to}" for ONNX', f"Forms are {', '.join(ONNX_FORMS)}.")
    if asked.method is not None and (asked.to != "q4" or asked.method not in METHODS):
        raise malformed(
            f'"{asked.method}" is no method of {asked.to}', "q4 has gptq and rtn; others have none."
        )
    if asked.calibration is None and (asked.to == "int8-static" or method_of(asked) == "gptq"):
        raise malformed(
            f"{asked.to} needs a calibration", "Give requests like those that it will see: --calibration FILE"
        )
    if asked.group not in GROUPS:
        raise malformed(f"a group has 32, 64 or 128 weights, not {asked.group}")
    if not 1 <= asked.rows <= ROWS_MAX:
        raise malformed(f"a calibration has 1 to {ROWS_MAX:,} rows")
    return asked


def method_of(asked: Options) -> str:
    return asked.method or ("rtn" if asked.calibration is None else "gptq")


def bring_along(source: Path, target: Path) -> None:
    """What a runtime needs beside the model, and what people need to know of it."""
    for name in BESIDE:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    target.mkdir(exist_ok=True)


def _to_int8(graph: Graph, asked: Options, requests: Sequence[Request], say: Say) -> Made:
    large = [node.name for node in graph.dense() if _size(graph, node.input[1]) >= COMPUTED_MIN]
    if large:
        say("eight bits")
        graph = _by_onnxruntime(graph, large)
    return Made(len(large) + _keep_small(graph), graph)


def _by_onnxruntime(graph: Graph, names: Sequence[str]) -> Graph:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def work(file: Path) -> None:
        told = {"per_channel": True, "weight_type": QuantType.QInt8, "nodes_to_quantize": names}
        quantize_dynamic(graph.model, file, ["MatMul"], **told)

    return _made(graph, work)


def _made(graph: Graph, work: Callable[[Path], None]) -> Graph:
    """What ONNX Runtime's quantizer writes; it warns of models that it did not prepare itself."""
    graph.model.metadata_props.add(key=PREPARED[0], value=PREPARED[1])
    with tempfile.TemporaryDirectory(prefix="atoll-onnx-") as place:
        work(Path(place) / "model.onnx")
        found = onnx.load(str(Path(place) / "model.onnx"))
    del found.graph.value_info[:]
    kept = [one for one in graph.model.metadata_props if one.key != PREPARED[0]]
    del found.metadata_props[:]
    found.metadata_props.extend(kept)
    return Graph(found, graph.name)


def _keep_small(graph: Graph) -> int:
    """Tables, kernels and weights that are in 32 bits still."""
    tables = {node.name for node in graph.nodes() if _is_table(graph, node)}
    graph.rewrite(lambda node: keep_rows(graph, node) if node.name in tables else [node])
    axes = {
        node.input[1]: 1 if node.op_type == "MatMul" else 0
        for node in [*graph.dense(), *(node for node in graph.nodes() if node.op_type == "Conv")]
        if graph.is_float(node.input[1]) and _size(graph, node.input[1]) >= KEPT_MIN
    }
    if axes:
        before_all(graph, [node for name, axis in axes.items() for node in keep_whole(graph, name, axis)])
    return len(tables) + len(axes)


def _is_table(graph: Graph, node: NodeProto) -> bool:
    if node.op_type != "Gather" or not graph.is_float(node.input[0]):
        return False
    is_by_row = all(one.name != "axis" or one.i == 0 for one in node.attribute)
    held = graph.weights[node.input[0]].dims
    return is_by_row and len(held) == 2 and _size(graph, node.input[0]) >= KEPT_MIN


def _size(graph: Graph, weight: str) -> int:
    total = 1
    for size in graph.weights[weight].dims:
        total *= size
    return total


def _to_static(graph: Graph, asked: Options, requests: Sequence[Request], say: Say) -> Made:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(requests)

        def get_next(self) -> Request | None:
            return next(self.left, None)

    kinds = ["MatMul", "Conv"]
    chosen = [node for node in graph.nodes() if node.op_type in kinds and graph.is_float(node.input[1])]
    if not chosen:
        return Made(0, graph)
    say("scales from the calibration")

    def work(file: Path) -> None:
        quantize_static(
            graph.model,
            file,
            Reader(),
            op_types_to_quantize=kinds,
            nodes_to_quantize=[node.name for node in chosen],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )

    smaller = _made(graph, work)
    return Made(len(chosen) + _keep_small(smaller), smaller)


def _to_q4(graph: Graph, asked: Options, requests: Sequence[Request], say: Say) -> Made:
    require("torch")
    from atoll.compress.onnx_gptq import WIDTH_MAX, round_all

    chosen = [node for node in graph.dense() if _size(graph, node.input[1]) >= KEPT_MIN]
    if not chosen:
        return Made(0, graph)
    wanted = requests if method_of(asked) == "gptq" else ()
    roundings = round_all(graph, chosen, asked.group, wanted, say)
    found = {one.node.name: one.rounded for one in roundings}
    wide = [one.node.input[1] for one in roundings if one.is_too_wide]

    def change(node: NodeProto) -> list[NodeProto]:
        if node.name not in found:
            return [node]
        rounded = found[node.name]
        return [keep_blocks(graph, node, rounded.levels.numpy(), rounded.scales.numpy(), 4)]

    graph.rewrite(change)
    why = f"rounded to the nearest, not by GPTQ, as more than {WIDTH_MAX:,} inputs are not calibrated: "
    return Made(len(found) + _keep_small(graph), graph, (why + ", ".join(wide),) if wide else ())
