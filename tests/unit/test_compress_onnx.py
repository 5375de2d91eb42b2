"""Models in ONNX made smaller: the runtime computes with what was packed, and what is bad is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")
pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402

from atoll.compress import gptq  # noqa: E402
from atoll.compress.cook import cook  # noqa: E402
from atoll.compress.onnx_graph import load, save  # noqa: E402
from atoll.compress.onnx_packing import keep_blocks  # noqa: E402
from atoll.compress.onnx_quantize import quantize  # noqa: E402
from atoll.compress.onnx_rows import Model  # noqa: E402
from atoll.compress.recipe import Budget, Recipe, Task  # noqa: E402
from atoll.domain.errors import DataError  # noqa: E402
from atoll.start import start_models  # noqa: E402
from support import graphs  # noqa: E402

SEED = 52
WIDE, OUT = 80, 48  # no whole number of groups
DIGITS = next(one.path for one in start_models() if one.name == "digits")
HELD_OUT = Path(__file__).with_name("digits_held_out.npz")


def silent(word: str) -> None:
    pass


def save_products(path: Path, **weights: Any) -> Path:
    rng = np.random.default_rng(SEED)
    given = {"one": rng.normal(size=(WIDE, WIDE)), "two": rng.normal(size=(WIDE, OUT)), **weights}
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["between"]),
        helper.make_node("Relu", ["between"], ["positive"]),
        helper.make_node("MatMul", ["positive", "two"], ["y"]),
    ]
    told = {name: value.astype(np.float32) for name, value in given.items()}
    f = TensorProto.FLOAT
    return graphs.save(path, nodes, [("x", f, ["rows", WIDE])], [("y", f, ["rows", OUT])], **told)


def save_requests(path: Path, **arrays: Any) -> Path:
    rng = np.random.default_rng(SEED + 1)
    mixing = rng.normal(size=(WIDE, WIDE)) * rng.exponential(size=WIDE)
    np.savez(path, **(arrays or {"x": (rng.normal(size=(400, WIDE)) @ mixing).astype(np.float32)}))
    return path


def save_digits(path: Path) -> Path:
    held = np.load(HELD_OUT)
    np.savez(path, image=held["images"].astype(np.float32) / 16, labels=held["labels"])
    return path


@pytest.mark.parametrize("group", [32, 64])
def test_the_runtime_computes_with_the_very_levels_that_were_packed(tmp_path: Path, group: int) -> None:
    graph = load(save_products(tmp_path / "model.onnx"))
    weight = torch.zeros(WIDE, -(-WIDE // group) * group)
    weight[:, :WIDE] = torch.from_numpy(graph.read("one").T.copy())
    rounded = gptq.nearest(weight, group)
    first = graph.dense()[0].name
    levels, scales = rounded.levels.numpy(), rounded.scales.numpy()
    graph.model.graph.output[0].name = "between"
    graph.model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = WIDE
    graph.rewrite(
        lambda node: [keep_blocks(graph, node, levels, scales, 0)] if node.name == first else [node]
    )
    save(graph, tmp_path / "packed.onnx")
    unpacked = Model(tmp_path / "packed.onnx").run({"x": np.eye(WIDE, dtype=np.float32)})["between"]
    np.testing.assert_array_equal(unpacked, rounded.restored()[:, :WIDE].T.numpy())


def test_gptq_loses_less_than_rounding_to_the_nearest(tmp_path: Path) -> None:
    model, requests = save_products(tmp_path / "model.onnx"), save_requests(tmp_path / "x.npz")
    x = {"x": np.load(requests)["x"]}
    wanted = Model(model).run(x)["y"]
    lost = {}
    for method in ("rtn", "gptq"):
        options = {"to": "q4", "method": method, "calibration": requests, "rows": 400}
        quantize(model, tmp_path / "small.onnx", options, silent)
        lost[method] = float(((Model(tmp_path / "small.onnx").run(x)["y"] - wanted) ** 2).mean())
        assert (tmp_path / "small.onnx").stat().st_size < model.stat().st_size / 3
    assert lost["gptq"] < 0.7 * lost["rtn"], lost


@pytest.mark.parametrize("form", ["int8", "int8-static", "q4"])
def test_digits_stays_as_good_at_a_third_of_the_bytes(tmp_path: Path, form: str) -> None:
    examples = save_digits(tmp_path / "digits.npz")
    task = Task("quantize-onnx", {"to": form, "calibration": examples})
    output = tmp_path / "small.onnx"
    outcome = cook(Recipe(DIGITS, output, (task,), examples, Budget(max_loss=0.02)), silent)
    assert outcome.table is not None
    assert output.stat().st_size < DIGITS.stat().st_size / 3
    assert outcome.table[0][-1] == "99.50%"
    assert not (tmp_path / ".small.onnx.work").exists()


def test_what_is_over_the_budget_is_not_kept(tmp_path: Path) -> None:
    task = Task("quantize-onnx", {"to": "int8"})
    output = tmp_path / "small.onnx"
    with pytest.raises(DataError) as met:
        cook(Recipe(DIGITS, output, (task,), None, Budget(max_bytes=1000)), silent)
    assert met.value.code == "budget-missed"
    assert not output.exists()


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ({"x": np.zeros((0, WIDE))}, "calibration-refused"),
        ({"x": np.zeros((3, WIDE + 1))}, "calibration-refused"),
        ({"z": np.zeros((3, WIDE))}, "calibration-refused"),
        ({"x": np.full((3, WIDE), np.nan)}, "calibration-refused"),
    ],
)
def test_a_calibration_that_does_not_fit_is_refused(tmp_path: Path, rows: Any, code: str) -> None:
    model, requests = save_products(tmp_path / "model.onnx"), save_requests(tmp_path / "x.npz", **rows)
    with pytest.raises(DataError) as met:
        quantize(model, tmp_path / "small.onnx", {"to": "int8-static", "calibration": requests}, silent)
    assert met.value.code == code
    assert not (tmp_path / "small.onnx").exists()


def test_weights_that_are_no_numbers_and_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    broken = save_products(tmp_path / "nan.onnx", one=np.full((WIDE, WIDE), np.nan))
    rubbish = tmp_path / "rubbish.onnx"
    rubbish.write_bytes(b"\x08\xff not a model" * 9)
    for path in (broken, rubbish, graphs.save_tiny(tmp_path / "tiny.onnx")):
        with pytest.raises(DataError) as met:
            quantize(path, tmp_path / "small.onnx", {"to": "int8"}, silent)
        assert met.value.code == "model-unusable"
    assert not (tmp_path / "small.onnx").exists()


def test_lines_of_json_calibrate_too(tmp_path: Path) -> None:
    lines = tmp_path / "x.jsonl"
    x = np.random.default_rng(SEED).normal(size=(40, WIDE))
    lines.write_text("".join(json.dumps({"input": row.tolist()}) + "\n" for row in x))
    model = save_products(tmp_path / "model.onnx")
    facts = quantize(model, tmp_path / "small.onnx", {"to": "int8-static", "calibration": lines}, silent)
    assert facts["calibration_requests"] == 40
