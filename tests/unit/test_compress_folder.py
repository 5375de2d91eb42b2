"""A model folder becomes a file that says the same; one that is no good is refused, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

from safetensors.torch import load_file, save_file  # noqa: E402

from atoll.compress import reading  # noqa: E402
from atoll.compress.folder import load, read_folder  # noqa: E402
from atoll.compress.quantize import export, quantize  # noqa: E402
from atoll.compress.vocabulary import read_tokenizer  # noqa: E402
from atoll.domain.errors import AtollError  # noqa: E402
from support.decoders import KINDS, TEXT, save_decoder, save_tokenizer  # noqa: E402

pytestmark = pytest.mark.slow

ODD = "def f(x):\n    return {'a': 1234}\n\n\n  It's Zwei Möwen 🐦, 7,5 %?"


def silent(word: str) -> None:
    pass


def expected(folder: Path, rows: torch.Tensor) -> list[float]:
    """How surprised the folder's model is, as torch computes it."""
    with torch.no_grad():
        logits = load(read_folder(folder))(rows[:, :-1])
    lost = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    return list(lost.sum(1).tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_the_runtime_says_of_the_file_what_torch_says_of_the_folder(kind: str, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "model", kind)
    export(folder, tmp_path / "model.gguf", {"to": "f32"}, silent)
    rows = torch.randint(1, 512, (3, 100), generator=torch.Generator().manual_seed(1))
    found = reading.read(tmp_path / "model.gguf", rows.tolist())
    assert found.lost == pytest.approx(expected(folder, rows), rel=2e-4)
    assert found.tokens == (99, 99, 99)


def test_the_runtime_cuts_text_as_the_tokenizer_does(tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "model")
    export(folder, tmp_path / "model.gguf", {}, silent)
    texts = [ODD, TEXT.read_text("utf-8")]
    tokenizer = read_tokenizer(folder / "tokenizer.json")
    assert reading.cut(tmp_path / "model.gguf", texts) == [tokenizer.encode(text).ids for text in texts]


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"to": "q8_0"}, 0.01),
        ({"method": "gptq"}, 0.1),
        ({"to": "q4_k_m", "method": "imatrix"}, 0.1),
        ({"to": "q4_k_m", "method": "gptq"}, 0.1),
        ({"to": "q3_k", "method": "gptq"}, 0.2),
    ],
)
def test_a_quantized_file_says_nearly_the_same(options: dict[str, Any], most: float, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    told = {**options, "length": 64, "rows": 32}
    if "method" in options:
        told["calibration"] = TEXT
    facts = quantize(folder, tmp_path / "model.gguf", told, silent)
    assert facts["bytes"] < (folder / "model.safetensors").stat().st_size * 0.4
    tokens = read_tokenizer(folder / "tokenizer.json").encode(TEXT.read_text("utf-8")).ids[:800]
    rows = torch.tensor(tokens).view(8, 100)
    found = reading.read(tmp_path / "model.gguf", rows.tolist())
    assert sum(found.lost) == pytest.approx(sum(expected(folder, rows)), rel=most)


def spoil_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(weights, folder / "model.safetensors")


def lose_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors")


def say(**more: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **more}))

    return change


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not numbers": (spoil_weight, "model-unusable"),
    "a weight missing": (lose_weight, "model-unusable"),
    "another architecture": (say(architectures=["MambaForCausalLM"]), "model-unsupported"),
    "no architecture": (say(architectures=[]), "model-unsupported"),
    "other positions": (say(rope_scaling={"rope_type": "yarn"}), "model-unsupported"),
    "quantized already": (say(quantization_config={"bits": 4}), "model-unsupported"),
    "another width": (say(hidden_size=128), "model-unusable"),
    "no sensible width": (say(hidden_size="wide"), "model-unusable"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "model-unsupported"),
    "another model's tokenizer": (
        lambda folder: save_tokenizer(folder / "tokenizer.json", 700),
        "tokenizer-wrong",
    ),
    "a tokenizer that is none": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "model-unusable",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model-unusable"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-9]
        ),
        "model-unusable",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_is_no_good_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    change, code = BAD[case]
    folder = save_decoder(tmp_path / "model")
    change(folder)
    with pytest.raises(AtollError) as told:
        quantize(folder, tmp_path / "model.gguf", {}, silent)
    assert told.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "calibration-too-small"),
        (b"A few words.", "calibration-too-small"),
        (b"\xff\xfe\x00" * 999, "calibration-refused"),
    ],
)
def test_a_calibration_that_is_no_good_is_refused(text: bytes, code: str, tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "model")
    (tmp_path / "text.txt").write_bytes(text)
    with pytest.raises(AtollError) as told:
        quantize(folder, tmp_path / "model.gguf", {"calibration": tmp_path / "text.txt"}, silent)
    assert told.value.code == code
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"to": "q9"},
        {"to": "q8_0", "method": "gptq", "calibration": TEXT},
        {"method": "gptq"},
        {"method": "magic"},
        {"group": 48},
        {"rows": 0},
        {"embedding": "q4_k_m"},
        {"plan": {"model.layers.9.mlp.up_proj": "q8_0"}},
        {"colour": "red"},
        {"group": "32"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], tmp_path: Path) -> None:
    folder = save_decoder(tmp_path / "model")
    with pytest.raises(AtollError) as told:
        quantize(folder, tmp_path / "model.gguf", options, silent)
    assert told.value.code == "recipe-malformed"
