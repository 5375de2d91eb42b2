"""Models in ONNX made smaller: what is packed is what the runtime computes with; bad input is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")
pytest.importorskip("onnx")

import onnx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402

from atoll.cli.compress import follow  # noqa: E402
from atoll.compress import gptq  # noqa: E402
from atoll.compress.cook import cook  # noqa: E402
from atoll.compress.onnx_gptq import WIDTH_MAX  # noqa: E402
from atoll.compress.onnx_graph import load, save  # noqa: E402
from atoll.compress.onnx_packing import keep_blocks  # noqa: E402
from atoll.compress.onnx_quantize import quantize  # noqa: E402
from atoll.compress.onnx_rows import Model  # noqa: E402
from atoll.compress.plan import plan, take  # noqa: E402
from atoll.compress.planning import Question, Wishes  # noqa: E402
from atoll.compress.recipe import Budget, Recipe, Task  # noqa: E402
from atoll.domain.errors import DataError  # noqa: E402
from atoll.domain.models import Skill  # noqa: E402
from atoll.registry.formats.read import read_model  # noqa: E402
from atoll.runtimes.onnx.runtime import OnnxRuntime  # noqa: E402
from atoll.start import start_models  # noqa: E402
from support import graphs  # noqa: E402

SEED = 52
SIZE = 128
WIDE, OUT = 80, 48  # no whole number of groups
DIGITS = next(one.path for one in start_models() if one.name == "digits")
HELD_OUT = Path(__file__).with_name("digits_held_out.npz")


def silent(word: str) -> None:
    pass


def save_products(path: Path, width: int = WIDE, **weights: Any) -> Path:
    rng = np.random.default_rng(SEED)
    given = {"one": rng.normal(size=(width, WIDE)), "two": rng.normal(size=(WIDE, OUT)), **weights}
    nodes = [
        helper.make_node("MatMul", ["x", "one"], ["between"]),
        helper.make_node("Relu", ["between"], ["positive"]),
        helper.make_node("MatMul", ["positive", "two"], ["y"]),
    ]
    told = {name: value.astype(np.float32) for name, value in given.items()}
    f = TensorProto.FLOAT
    return graphs.save(path, nodes, [("x", f, ["rows", width])], [("y", f, ["rows", OUT])], **told)


def save_requests(path: Path, **arrays: Any) -> Path:
    rng = np.random.default_rng(SEED + 1)
    mixing = rng.normal(size=(WIDE, WIDE)) * rng.exponential(size=WIDE)
    np.savez(path, **(arrays or {"x": (rng.normal(size=(400, WIDE)) @ mixing).astype(np.float32)}))
    return path


def save_encoder(folder: Path, tokens: int = 200) -> Path:
    """A BERT with weights by chance, and a text for it."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir()
    words = ["[UNK]", *(f"w{number}" for number in range(199))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "bert", "hidden_act": "gelu", "hidden_size": SIZE, "layer_norm_eps": 1e-12}
    config |= {"num_attention_heads": 4, "num_hidden_layers": 1, "max_position_embeddings": 32}
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(SEED)
    tables = {"word": (tokens, SIZE), "position": (32, SIZE), "token_type": (2, SIZE)}
    shapes = {f"embeddings.{name}_embeddings.weight": shape for name, shape in tables.items()}
    layer = "encoder.layer.0"
    dense = {
        f"attention.{part}": (SIZE, SIZE) for part in ("self.query", "self.key", "self.value", "output.dense")
    }
    for name, shape in (
        dense | {"intermediate.dense": (4 * SIZE, SIZE), "output.dense": (SIZE, 4 * SIZE)}
    ).items():
        shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
    held = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("embeddings", f"{layer}.attention.output", f"{layer}.output"):
        held |= {f"{name}.LayerNorm.weight": np.ones(SIZE, np.float32)}
        held |= {f"{name}.LayerNorm.bias": np.zeros(SIZE, np.float32)}
    save_file(held, folder / "model.safetensors")
    lines = [" ".join(words[at] for at in rng.integers(0, 200, 40)) for _ in range(32)]
    text = folder.with_suffix(".txt")
    text.write_text("\n".join(" ".join(line.split()[:30]) for line in lines))
    return text


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


def test_what_is_too_wide_for_gptq_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    width = WIDTH_MAX + 8
    wide = save_products(tmp_path / "wide.onnx", width)
    requests = save_requests(tmp_path / "x.npz", x=np.ones((4, width), np.float32))
    task = Task("quantize-onnx", {"to": "q4", "calibration": requests})
    follow(Recipe(wide, tmp_path / "small.onnx", (task,)))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "nearest" in line]
    assert line.endswith("more than 8,192 inputs are not calibrated: one")

    def notes_of(model: Path, **options: Any) -> Any:
        return quantize(model, tmp_path / "other.onnx", {"to": "q4", **options}, silent)["notes"]

    assert not notes_of(wide)
    narrow = save_products(tmp_path / "model.onnx")
    assert not notes_of(narrow, calibration=save_requests(tmp_path / "narrow.npz"))


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


@pytest.mark.parametrize("budget", [Budget(max_bytes=1000), Budget(max_ms=1e-9)])
def test_what_is_over_the_budget_is_not_kept(tmp_path: Path, budget: Budget) -> None:
    task = Task("quantize-onnx", {"to": "int8"})
    output = tmp_path / "small.onnx"
    with pytest.raises(DataError) as met:
        cook(Recipe(DIGITS, output, (task,), None, budget), silent)
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


@pytest.mark.parametrize("form", ["int8", "q4"])
async def test_an_encoder_is_served_with_vectors_like_those_before(tmp_path: Path, form: str) -> None:
    source, small = tmp_path / "encoder", tmp_path / "small"
    text = save_encoder(source)
    options = {"to": form} | ({"calibration": text} if form == "q4" else {})
    await asyncio.to_thread(quantize, source, small, options, silent)
    assert read_model(small).skills == {Skill.EMBED, Skill.INFER}
    lines = text.read_text().splitlines()
    vectors = []
    for path in (source, small):
        runtime = OnnxRuntime(path)
        await runtime.start()
        vectors.append((await runtime.embed(lines)).vectors)
        await runtime.stop()
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > 0.98
    assert (small / "model.onnx").stat().st_size < (source / "model.safetensors").stat().st_size / 3


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    text = save_encoder(tmp_path / "encoder", tokens=3)
    options = {"to": "q4", "calibration": text}
    with pytest.raises(DataError) as met:
        quantize(tmp_path / "encoder", tmp_path / "small", options, silent)
    assert met.value.code == "calibration-refused"
    assert "tokenizer" in (met.value.hint or "")
    assert not (tmp_path / "small").exists()


def test_weights_that_lie_beside_a_file_are_taken_in_and_missed_where_they_are_not(tmp_path: Path) -> None:
    model = onnx.load(str(save_products(tmp_path / "model.onnx")))
    onnx.save(model, str(tmp_path / "apart.onnx"), save_as_external_data=True, location="apart.onnx.data")
    quantize(tmp_path / "apart.onnx", tmp_path / "small.onnx", {"to": "int8"}, silent)
    (tmp_path / "alone").mkdir()
    x = {"x": np.ones((2, WIDE), np.float32)}
    alone = (tmp_path / "small.onnx").rename(tmp_path / "alone" / "small.onnx")
    np.testing.assert_allclose(Model(alone).run(x)["y"], Model(tmp_path / "model.onnx").run(x)["y"], atol=1.5)
    (tmp_path / "apart.onnx.data").unlink()
    with pytest.raises(DataError) as met:
        quantize(tmp_path / "apart.onnx", tmp_path / "small.onnx", {"to": "int8"}, silent)
    assert met.value.code == "model-unusable"


def test_lines_of_json_calibrate_too(tmp_path: Path) -> None:
    lines = tmp_path / "x.jsonl"
    x = np.random.default_rng(SEED).normal(size=(40, WIDE))
    lines.write_text("".join(json.dumps({"input": row.tolist()}) + "\n" for row in x))
    model = save_products(tmp_path / "model.onnx")
    facts = quantize(model, tmp_path / "small.onnx", {"to": "int8-static", "calibration": lines}, silent)
    assert facts["calibration_requests"] == 40


def question(folder: Path, model: Path, requests: Path, **wishes: Any) -> Question:
    return Question(model, requests, requests, Wishes(**wishes), folder)


@pytest.mark.slow
def test_a_plan_measures_every_form_by_accuracy_and_makes_none_twice(tmp_path: Path) -> None:
    examples = save_digits(tmp_path / "digits.npz")
    model = tmp_path / "model.onnx"
    shutil.copyfile(DIGITS, model)
    answer = plan(question(tmp_path, model, examples, max_loss=0.02), silent)
    sizes = {one.name: one.bytes for one in answer.candidates}
    assert list(sizes) == sorted(sizes, key=lambda name: -sizes[name])
    assert sizes.keys() == {"as-it-is", "int8", "int8-static", "q4-32", "q4-128"}
    assert sizes["as-it-is"] == DIGITS.stat().st_size > 3 * sizes["int8"]
    assert answer.candidates[0].quality == 0.995
    assert answer.measure.quality == "accuracy"
    assert answer.advice.fits
    assert answer.advice.name == min(sizes, key=lambda name: sizes[name])
    take(answer, tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size == sizes[answer.advice.name]

    said: list[str] = []
    again = plan(question(tmp_path, model, examples, max_bytes=1000), said.append)
    assert again.candidates == answer.candidates
    assert not [word for word in said if word.endswith("begins")]
    assert not again.advice.fits
    assert "bytes of 1,000" in again.advice.why


def test_a_plan_leaves_out_forms_of_no_use_and_measures_a_changed_model_anew(tmp_path: Path) -> None:
    weights = {"one": np.ones((8, 8)), "two": np.eye(8)}
    model = save_products(tmp_path / "model.onnx", 8, **weights)
    requests = save_requests(tmp_path / "x.npz", x=np.eye(8, dtype=np.float32))
    answer = plan(question(tmp_path, model, requests, max_loss=0.0), silent)
    assert answer.left_out.keys() == {"int8", "q4-32", "q4-128"}
    assert all("no weights" in why for why in answer.left_out.values())
    assert (answer.advice.name, answer.measure.quality) == ("as-it-is", "cosine")
    said: list[str] = []
    save_products(model, 8, **weights | {"one": np.eye(8)})
    plan(question(tmp_path, model, requests, max_loss=0.0), said.append)
    assert "as-it-is, measuring: begins" in said
