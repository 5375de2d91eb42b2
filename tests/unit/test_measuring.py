"""Two models side by side: differences that are there are seen, and luck is called luck."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from atoll.compress import comparing
from atoll.compress.measuring import Plan, measure
from atoll.domain.errors import DataError
from atoll.start import start_models

SEED = 20_264
DIGITS = Path(__file__).with_name("digits_held_out.npz")
UNLABELLED = {"input": [0.0] * 64}
QUICK = Plan(rows=8, requests=2, tokens=8, seed=SEED)


def silent(word: str) -> None:
    pass


def start_model(name: str) -> Path:
    return next(one.path for one in start_models() if one.name == name)


def test_the_interval_holds_what_is_there_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(SEED)
    held = 0
    for number in range(60):
        first = random.normal(0, 1, 80)
        second = first + random.normal(0.1, 0.5, 80)
        found = comparing.compare(80, number, comparing.means(first, second))
        held += found.low <= 0.1 <= found.high
    assert 50 <= held <= 60, f"{held} of 60, seed {SEED}"


def test_perplexity_rises_by_what_each_token_lost() -> None:
    first, tokens = np.full(10, 100.0), np.full(10, 50.0)
    found = comparing.compare(10, SEED, comparing.perplexities(first, first + 5, tokens))
    assert found.middle == pytest.approx(np.exp(0.1) - 1)
    assert found.is_certain
    assert not comparing.compare(10, SEED, comparing.perplexities(first, first, tokens)).is_certain


def test_a_classifier_that_is_too_sure_has_an_error_of_calibration() -> None:
    right = np.array([True, False] * 50)
    assert comparing.calibration_error(np.full(100, 0.5), right) == pytest.approx(0)
    assert comparing.calibration_error(np.full(100, 0.95), right) == pytest.approx(0.45)


def test_a_language_model_is_as_good_as_itself(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text((Path(__file__).parents[2] / "docs" / "glossary.md").read_text("utf-8"), "utf-8")
    model = start_model("pebble")
    lines = {line.what: line for line in measure([model, model], text, None, QUICK, silent)}
    quality = lines["perplexity"]
    assert quality.values[0] == quality.values[1]
    assert quality.difference is not None
    assert not quality.difference.is_certain
    assert lines["tokens per second"].values[0]
    assert (lines["resident bytes"].values[0] or 0) > model.stat().st_size
    assert (lines["CPU seconds per 1,000 tokens"].values[0] or 0) > 0


def test_a_classifier_is_measured_by_examples(tmp_path: Path) -> None:
    held = np.load(DIGITS)
    examples = tmp_path / "examples.jsonl"
    told = [
        json.dumps({"input": (image / 16).tolist(), "label": int(label)})
        for image, label in zip(held["images"], held["labels"], strict=True)
    ]
    examples.write_text("\n".join(told))
    lines = {line.what: line for line in measure([start_model("digits")], None, examples, QUICK, silent)}
    assert (lines["accuracy"].values[0] or 0) > 0.9
    assert (lines["calibration error"].values[0] or 1) < 0.1


def test_examples_may_be_a_file_of_numpy(tmp_path: Path) -> None:
    held = np.load(DIGITS)
    images = (held["images"] / 16).astype(np.float32)
    np.savez(tmp_path / "examples.npz", image=images, labels=held["labels"])
    examples = tmp_path / "examples.npz"
    lines = {line.what: line for line in measure([start_model("digits")], None, examples, QUICK, silent)}
    assert (lines["accuracy"].values[0] or 0) > 0.9
    np.savez(examples, image=images, labels=held["labels"] + 1)
    with pytest.raises(DataError, match="none of the model's classes"):
        measure([start_model("digits")], None, examples, QUICK, silent)


@pytest.mark.parametrize(
    "text", ["", "not json", '{"input": [1]}', '{"input": [1], "label": "seven"}', json.dumps(UNLABELLED)]
)
def test_examples_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text(text)
    with pytest.raises(DataError, match="cannot"):
        measure([start_model("digits")], None, tmp_path / "examples.jsonl", QUICK, silent)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("A few words.")
    for models in ([start_model("pebble"), start_model("digits")], [start_model("digits")]):
        with pytest.raises(DataError) as told:
            measure(models, tmp_path / "text.txt", None, QUICK, silent)
        assert told.value.code == "measure-refused"
    with pytest.raises(DataError, match="cannot measure by"):
        measure([start_model("pebble")], tmp_path / "text.txt", None, QUICK, silent)
