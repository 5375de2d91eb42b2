"""A narrower classifier in ONNX: computed by torch, cut where channels belong together, and taught."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")
pytest.importorskip("transformers", reason="transformers is not installed: pip install 'atoll[compress]'")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import NodeProto, TensorProto, helper  # noqa: E402

from atoll.compress.cook import cook  # noqa: E402
from atoll.compress.onnx_distill import distill  # noqa: E402
from atoll.compress.onnx_graph import load, save  # noqa: E402
from atoll.compress.onnx_narrow import narrow  # noqa: E402
from atoll.compress.onnx_net import Net  # noqa: E402
from atoll.compress.recipe import read_recipe  # noqa: E402
from atoll.domain.errors import AtollError, DataError  # noqa: E402
from atoll.start import start_models  # noqa: E402
from atoll.training.distill import Options  # noqa: E402
from atoll.training.loop import Schedule  # noqa: E402
from support import graphs  # noqa: E402

pytestmark = pytest.mark.slow
SEED = 71
CHANNELS = 8
START = {one.name: one.path for one in start_models()}
LEARNING = Schedule(steps=40, batch=16, rate=5e-3, every=20, seed=SEED)
ROW = {"digits": (1, 8, 8), "bearing": (512,)}


def silent(word: str) -> None:
    pass


def node(operator: str, inputs: str, output: str, **told: Any) -> NodeProto:
    return helper.make_node(operator, inputs.split(), [output], **told)


def conv(x: str, name: str, output: str, **told: Any) -> NodeProto:
    return node("Conv", f"{x} {name} {name}.bias", output, pads=[1, 1, 1, 1], **told)


SHAPES = {"one": (CHANNELS, 2, 3, 3), "two": (CHANNELS, CHANNELS, 3, 3), "own": (CHANNELS, 1, 3, 3)}
NODES: dict[str, list[NodeProto]] = {
    "added": [
        conv("x", "one", "a"),
        node("Relu", "a", "b"),
        conv("b", "two", "c"),
        node("Add", "b c", "d"),
        node("GlobalAveragePool", "d", "e"),
        node("Flatten", "e", "f"),
        node("MatMul", "f table", "g"),
    ],
    "depthwise": [
        conv("x", "one", "a"),
        conv("a", "own", "b", group=CHANNELS),
        node("HardSwish", "b", "c"),
        node("BatchNormalization", "c scale shift mean variance", "d"),
        node("MaxPool", "d", "e", kernel_shape=[6, 6], strides=[6, 6]),
        node("Flatten", "e", "f"),
        node("MatMul", "f table", "g"),
    ],
    "gated": [
        conv("x", "one", "a"),
        node("GlobalAveragePool", "a", "b"),
        conv("b", "two", "c"),
        node("Sigmoid", "c", "d"),
        node("Mul", "a d", "e"),
        node("ReduceMean", "e", "f", keepdims=0, axes=[2, 3]),
        node("MatMul", "f table", "g"),
    ],
    "side by side": [
        conv("x", "one", "a"),
        conv("a", "two", "b"),
        node("Concat", "a b", "c", axis=1),
        node("LeakyRelu", "c", "d", alpha=0.1),
        node("Reshape", "d flat", "f"),
        node("MatMul", "f long", "g"),
    ],
    "turned": [
        conv("x", "one", "a"),
        node("Transpose", "a", "b", perm=[0, 2, 3, 1]),
        node("MatMul", "b square", "c"),
        node("Add", "c shift", "d"),
        node("Relu", "d", "e"),
        node("ReduceMax", "e", "f", keepdims=0, axes=[1, 2]),
        node("MatMul", "f table", "g"),
    ],
}  # fmt: skip
MADE_BY = {
    "one": 0, "two": 0, "own": 0, "square": 1, "one.bias": 0, "two.bias": 0, "own.bias": 0, "shift": 0,
}  # fmt: skip


def make_graph(path: Path, name: str, idle: bool) -> Path:
    """Where channels are idle, every second one of each kernel makes nothing but 0."""
    rng = np.random.default_rng(SEED)
    shapes = {
        **SHAPES, **{f"{one}.bias": (CHANNELS,) for one in SHAPES},
        "table": (CHANNELS, 3), "square": (CHANNELS,) * 2, "long": (2 * CHANNELS * 36, 3),
        **dict.fromkeys(("scale", "shift", "mean", "variance"), (CHANNELS,)),
    }  # fmt: skip
    used = {one for made in NODES[name] for one in made.input}
    weights: dict[str, Any] = {one: rng.normal(size=shape) for one, shape in shapes.items() if one in used}
    for one, axis in MADE_BY.items() if idle else ():
        if one in weights:
            np.moveaxis(weights[one], axis, 0)[::2] = 0
            if one.startswith("two"):  # alone it would choose others than what it is added to
                weights[one][5:] = 0
    if "variance" in weights:
        weights["variance"] = np.abs(weights["variance"]) + 0.5
        weights["mean"] = np.zeros(CHANNELS)
        weights["shift"] = np.zeros(CHANNELS)
    held = {one: value.astype(np.float32) for one, value in weights.items()}
    if "flat" in used:
        held["flat"] = np.array([-1, 2 * CHANNELS * 36], np.int64)
    f = TensorProto.FLOAT
    nodes = [*NODES[name], node("Softmax", "g", "y")]
    return graphs.save(path, nodes, [("x", f, ["rows", 2, 6, 6])], [("y", f, ["rows", 3])], **held)


def run(path: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(str(path))
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def some(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(SEED + 1).normal(size=(5, *shape)).astype(np.float32)


@pytest.mark.parametrize("name", [*NODES, *ROW])
def test_torch_computes_what_the_runtime_computes(name: str, tmp_path: Path) -> None:
    path = START[name] if name in START else make_graph(tmp_path / "a.onnx", name, idle=False)
    x = some(*ROW.get(name, (2, 6, 6)))
    graph = load(path)
    reads, says = graph.model.graph.input[0].name, graph.model.graph.output[0].name
    found = Net(graph)({reads: torch.from_numpy(x)}, says).detach().numpy()
    np.testing.assert_allclose(found, run(path, x), atol=1e-5)


GROUPS = {"added": 1, "depthwise": 1, "gated": 1, "side by side": 2, "turned": 2}


@pytest.mark.parametrize("name", list(NODES))
def test_channels_that_do_nothing_can_go_and_nothing_changes(name: str, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    path, x = make_graph(tmp_path / "a.onnx", name, idle=True), some(2, 6, 6)
    graph = load(path)
    assert narrow(graph, {"x": torch.from_numpy(x)}, 0.5) == GROUPS[name]
    save(graph, tmp_path / "b.onnx")
    np.testing.assert_allclose(run(tmp_path / "b.onnx", x), run(path, x), atol=1e-5)
    onnx.checker.check_model(str(tmp_path / "b.onnx"), full_check=True)
    kernel = graph.read("one")
    assert kernel.shape == (CHANNELS // 2, *SHAPES["one"][1:])


def test_what_leaves_the_model_is_not_cut(tmp_path: Path) -> None:
    """An output of channels, and one whose way is not known."""
    f, rng = TensorProto.FLOAT, np.random.default_rng(SEED)
    held = {one: rng.normal(size=SHAPES[one]).astype(np.float32) for one in ("one", "two")}
    held |= {f"{one}.bias": np.zeros(CHANNELS, np.float32) for one in held}
    nodes = [conv("x", "one", "a"), node("Softmax", "a", "b", axis=1), conv("b", "two", "y")]
    says = [("y", f, ["rows", CHANNELS, 6, 6])]
    path = graphs.save(tmp_path / "a.onnx", nodes, [("x", f, ["rows", 2, 6, 6])], says, **held)
    graph = load(path)
    assert narrow(graph, {"x": torch.from_numpy(some(2, 6, 6))}, 0.5) == 0
    assert graph.read("one").shape == SHAPES["one"]


def save_rows(path: Path, count: int = 400, **more: Any) -> Path:
    """Windows of vibration, as the recipe of the model makes them."""
    rng = np.random.default_rng(SEED)
    time = np.arange(512) / 3200
    turns = rng.uniform(15, 50, size=(count, 1))
    strength = rng.choice([0.05, 0.6], size=(count, 1))
    x = 1 + strength * np.sin(2 * np.pi * turns * time) + rng.normal(size=(count, 512)) * 0.08
    np.savez(path, window=x.astype(np.float32), **more)
    return path


def taught(tmp_path: Path, rows: Path, name: str = "out", **more: Any) -> dict[str, Any]:
    print(f"seed {SEED}")
    return distill(START["bearing"], tmp_path / name, rows, Options(schedule=LEARNING, **more), silent)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_a_narrow_student_says_what_its_teacher_says(tmp_path: Path) -> None:
    rows = save_rows(tmp_path / "rows.npz")
    facts = taught(tmp_path, rows)
    assert facts["loss_teacher"] == 0
    assert facts["loss_after"] < facts["loss_before"] / 4
    assert facts["agreement"] > 0.9
    assert facts["weights"] < facts["weights_teacher"] / 3
    made = tmp_path / "out" / "bearing.onnx"
    with np.load(rows) as held:
        x = held["window"]
    agreed = (run(made, x).argmax(1) == run(START["bearing"], x).argmax(1)).mean()
    assert agreed > 0.9
    before, after = (
        {one.key: one.value for one in onnx.load(str(path)).metadata_props}
        for path in (START["bearing"], made)
    )
    assert before == after  # the names of its classes, above all


def test_labels_are_learned_and_judged_by(tmp_path: Path) -> None:
    """They never say what the teacher says; its student can learn them all the same."""
    rows = save_rows(tmp_path / "rows.npz")
    with np.load(rows) as held:
        wrong = (run(START["bearing"], held["window"]).argmax(1) + 1) % 4
    save_rows(rows, label=wrong)
    facts = taught(tmp_path, rows, teacher=0.0)
    assert facts["accuracy_teacher"] == facts["agreement"] == 0
    assert facts["accuracy"] > 0.9
    assert facts["loss_after"] < facts["loss_teacher"]


def test_one_from_scratch_has_forgotten_all_and_learns(tmp_path: Path) -> None:
    facts = taught(tmp_path, save_rows(tmp_path / "rows.npz"), student="scratch")
    assert facts["loss_after"] < facts["loss_before"]
    with pytest.raises(AtollError, match="no such student"):
        taught(tmp_path, tmp_path / "rows.npz", "other", student="layers")


def fixed_rows(path: Path) -> Path:
    f, kernel = TensorProto.FLOAT, np.ones((512, 4), np.float32)
    nodes = [helper.make_node("MatMul", ["window", "kernel"], ["y"])]
    return graphs.save(path, nodes, [("window", f, [1, 512])], [("y", f, [1, 4])], kernel=kernel)


def no_channels(path: Path) -> Path:
    f, kernel = TensorProto.FLOAT, np.ones((512, 4), np.float32)
    nodes = [helper.make_node("MatMul", ["window", "kernel"], ["y"])]
    return graphs.save(path, nodes, [("window", f, ["rows", 512])], [("y", f, ["rows", 4])], kernel=kernel)


def unknown(path: Path) -> Path:
    f, kernel = TensorProto.FLOAT, np.ones((512, 4), np.float32)
    nodes = [node("MatMul", "window kernel", "a"), node("CumSum", "a axis", "y")]
    held = {"kernel": kernel, "axis": np.array(1, np.int64)}
    return graphs.save(path, nodes, [("window", f, ["rows", 512])], [("y", f, ["rows", 4])], **held)


def padded_by_itself(path: Path) -> Path:
    f, kernel = TensorProto.FLOAT, np.ones((4, 1, 3), np.float32)
    nodes = [
        node("Unsqueeze", "window axes", "a"),
        node("Conv", "a kernel", "b", auto_pad="SAME_UPPER"),
        node("ReduceMean", "b", "y", axes=[2], keepdims=0),
    ]
    held = {"kernel": kernel, "axes": np.array([1], np.int64)}
    return graphs.save(path, nodes, [("window", f, ["rows", 512])], [("y", f, ["rows", 4])], **held)


def test_only_what_is_added_to_a_product_is_learned(tmp_path: Path) -> None:
    """Not what keeps a root from 0."""
    f, held = TensorProto.FLOAT, {"table": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}
    nodes = [node("MatMul", "x table", "a"), node("Add", "a bias", "b"), node("Mul", "b b", "c")]
    nodes += [node("Add", "c little", "d"), node("Sqrt", "d", "y")]
    held["little"] = np.full(1, 1e-5, np.float32)
    path = graphs.save(tmp_path / "a.onnx", nodes, [("x", f, ["rows", 2])], [("y", f, ["rows", 3])], **held)
    assert set(Net(load(path)).learned()) == {"table", "bias"}


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (padded_by_itself, "model-unusable"),
        (fixed_rows, "model-unusable"),
        (no_channels, "prune-nothing"),
        (unknown, "model-unusable"),
    ],
)
def test_a_model_that_cannot_be_taught_is_refused(
    make: Callable[[Path], Path], code: str, tmp_path: Path
) -> None:
    rows = save_rows(tmp_path / "rows.npz", 40)
    with pytest.raises(DataError) as caught:
        distill(make(tmp_path / "a.onnx"), tmp_path / "out", rows, Options(schedule=LEARNING), silent)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("count", "more", "code"),
    [
        (4, {}, "examples-few"),
        (40, {"label": np.full(40, 4)}, "examples-malformed"),
        (40, {"other": np.zeros(40)}, "calibration-refused"),
    ],
)
def test_rows_that_teach_nothing_are_refused(
    count: int, more: dict[str, Any], code: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        taught(tmp_path, save_rows(tmp_path / "rows.npz", count, **more))
    assert caught.value.code == code
    assert not list(tmp_path.glob("out*"))


def test_a_recipe_teaches_and_then_makes_it_smaller(tmp_path: Path) -> None:
    rows = save_rows(tmp_path / "rows.npz")
    told = f"""
source = "{START["bearing"]}"
output = "small"
judge = "rows.npz"
[[step]]
do = "distill"
rows = "rows.npz"
steps = 40
batch = 16
rate = 5e-3
[[step]]
do = "quantize-onnx"
to = "int8"
"""
    (tmp_path / "recipe.toml").write_text(told)
    outcome = cook(read_recipe(tmp_path / "recipe.toml"), silent)
    assert outcome.table is not None
    (before, after), sizes = outcome.table, [float(row[1]) for row in outcome.table]
    assert (before[0], after[0]) == ("before", "after")
    assert sizes[1] < sizes[0] / 4
    (made,) = (tmp_path / "small").glob("*.onnx")
    with np.load(rows) as held:
        assert run(made, held["window"]).shape == (400, 4)
