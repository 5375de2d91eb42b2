"""Forms are mixed by what each part was measured to lose; the file is never over its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

from atoll.compress.calibrate import linear_names, read_rows  # noqa: E402
from atoll.compress.folder import load, read_folder  # noqa: E402
from atoll.compress.gguf_file import bytes_beside, padded  # noqa: E402
from atoll.compress.quantize import Options, forms_of, measure_parts, quantize  # noqa: E402
from atoll.compress.sense import output_names, read_choices, sense  # noqa: E402
from atoll.domain.errors import AtollError  # noqa: E402
from atoll.registry.formats.read import read_model  # noqa: E402
from support.decoders import KINDS, TEXT, save_decoder  # noqa: E402

pytestmark = pytest.mark.slow

SEEN: dict[str, Any] = {"calibration": TEXT, "rows": 4, "length": 64}


@pytest.fixture(autouse=True)
def _alone() -> None:
    torch.set_num_threads(1)


def silent(word: str) -> None:
    pass


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_beside_the_weights_are_known_before_a_file_is_written(kind: str, tmp_path: Path) -> None:
    from atoll.compress import forms

    source = save_decoder(tmp_path / "model", kind)
    quantize(source, tmp_path / "model.gguf", {}, silent)
    folder = read_folder(source)
    decoder = load(folder)
    plan = forms_of(decoder, Options())
    weights = {name: decoder.get_submodule(name).weight.numel() for name in plan}
    parts = sum(padded(forms.bytes_of(form, weights[name])) for name, form in plan.items())
    beside = bytes_beside(decoder, folder, plan)
    assert beside + parts == (tmp_path / "model.gguf").stat().st_size


def test_smaller_forms_lose_more_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    folder = read_folder(save_decoder(tmp_path / "model", hidden_size=256, intermediate_size=256))
    decoder = load(folder)
    before = {name: weight.clone() for name, weight in decoder.state_dict().items()}
    rows = read_rows(TEXT, folder.path / "tokenizer.json", 64, 4)
    said: list[str] = []
    found = sense(decoder, rows, 32, said.append)
    parts = [*output_names(decoder), *linear_names(decoder)]
    assert list(found) == parts
    assert said[-1] == f"part {len(parts)} of {len(parts)}: {parts[-1]}"
    for name, held in found.items():
        lost = {one.form: one.loss for one in held}
        if name.endswith(("k_proj", "v_proj", "q_proj")):
            assert lost["q3_k"] > lost["q5_k"] > lost["q8_0"] > 0
    assert all(torch.equal(before[name], weight) for name, weight in decoder.state_dict().items())


def test_a_mix_is_never_over_its_bytes_and_what_the_plan_says_holds(tmp_path: Path) -> None:
    source = save_decoder(tmp_path / "model", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    measure_parts(source, tmp_path / "parts.json", {"to": "mixed", "max_bytes": 1, **SEEN}, silent)
    told = {**SEEN, "to": "mixed", "sensitivity": tmp_path / "parts.json"}
    fewest = sum(min(one.bytes for one in held) for held in read_choices(tmp_path / "parts.json").values())
    for size in (fewest + 160_000, fewest + 260_000):
        plan = {"model.layers.0.mlp.up_proj": "f16"}
        facts = quantize(source, tmp_path / "model.gguf", {**told, "max_bytes": size, "plan": plan}, silent)
        assert facts["bytes"] <= size
        assert facts["mix"]["f16"] == 1
        assert read_model(tmp_path / "model.gguf").bytes == facts["bytes"]
    with pytest.raises(AtollError) as refused:
        quantize(source, tmp_path / "none.gguf", {**told, "max_bytes": fewest - 1}, silent)
    assert refused.value.code == "budget-missed"
    assert not (tmp_path / "none.gguf").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"to": "mixed", "calibration": TEXT},
        {"to": "mixed", "max_bytes": 10**6},
        {"to": "mixed", "max_bytes": 10**6, "calibration": TEXT, "method": "rtn"},
        {"to": "q4_0", "max_bytes": 10**6},
        {"to": "mixed", "max_bytes": 10**6, **SEEN, "sensitivity": TEXT},
        {"to": "mixed", "max_bytes": 10**6, **SEEN, "plan": {"model.layers.9.mlp.up_proj": "q8_0"}},
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(options: dict[str, Any], tmp_path: Path) -> None:
    source = save_decoder(tmp_path / "model")
    with pytest.raises(AtollError) as told:
        quantize(source, tmp_path / "model.gguf", options, silent)
    assert told.value.code == "recipe-malformed"
