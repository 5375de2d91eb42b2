"""The models that come with the package are what their cards say, and answer."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from atoll.pipelines import results
from atoll.pipelines.decode import decode, gather
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.start import StartModel, start_models

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "examples" / "models"
MODELS = {model.name: model for model in start_models()}
MEBIBYTE = 1 << 20


def recipe(name: str) -> ModuleType:
    """A recipe's module that makes data; needs nothing that trains."""
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / name / "data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def probabilities(model: StartModel, x: NDArray[Any]) -> NDArray[Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.path, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert tuple(json.loads(metadata["labels"])) == model.labels
    (given,) = session.get_inputs()
    (answer,) = session.run(["probabilities"], {given.name: x})
    assert np.allclose(answer.sum(axis=1), 1, atol=1e-5)
    return np.asarray(answer)


def accuracy(model: StartModel, x: NDArray[Any], labels: NDArray[Any]) -> float:
    return float((probabilities(model, x).argmax(axis=1) == labels).mean())


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_file_is_the_one_that_is_listed(name: str) -> None:
    model = MODELS[name]
    content = model.path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (model.bytes, model.sha256)
    assert model.license == "Apache-2.0"
    assert model.data
    assert model.description in (RECIPES / name / "README.md").read_text("utf-8")


def test_all_files_are_listed_and_small_together() -> None:
    folder = ROOT / "src" / "atoll" / "start"
    shipped = {path for path in folder.iterdir() if path.suffix in (".onnx", ".gguf")}
    assert shipped == {model.path for model in MODELS.values()}
    assert sum(model.bytes for model in MODELS.values()) <= 8 * MEBIBYTE


@pytest.mark.parametrize(
    ("conditions", "at_least"),
    [("as trained", 0.96), ("speeds between", 0.96), ("speeds beyond", 0.92), ("more noise", 0.75)],
)
def test_bearing_tells_faults_apart_on_machines_it_never_saw(conditions: str, at_least: float) -> None:
    data = recipe("bearing")
    drawn = data.HELD_OUT.get(conditions, data.TRAINED)
    assert accuracy(MODELS["bearing"], *data.windows(400, drawn, seed=77)) >= at_least


def test_bearing_does_not_care_which_way_gravity_points() -> None:
    x, _ = recipe("bearing").windows(50, recipe("bearing").TRAINED, seed=78)
    answers = [probabilities(MODELS["bearing"], x + np.float32(g)) for g in (-1, 0, 1)]
    assert np.abs(answers[0] - answers[2]).max() < 1e-3


def test_digits_reads_hands_that_were_held_out() -> None:
    held_out = np.load(Path(__file__).parent / "digits_held_out.npz")
    images = held_out["images"].astype(np.float32) / 16
    assert len(images) == 200
    assert accuracy(MODELS["digits"], images, held_out["labels"]) >= 0.97


def test_digits_is_sure_of_what_it_gets_right_and_less_so_of_noise() -> None:
    held_out = np.load(Path(__file__).parent / "digits_held_out.npz")
    images = held_out["images"].astype(np.float32) / 16
    noise = np.random.default_rng(5).random((200, 1, 8, 8), np.float32)
    sure, unsure = (probabilities(MODELS["digits"], x).max(axis=1).mean() for x in (images, noise))
    assert sure > 0.95 > unsure


def wav(samples: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return out.getvalue()


async def heard(*recordings: bytes) -> list[dict[str, Any]]:
    """What a pipeline makes of recordings."""
    runtime = OnnxRuntime(MODELS["keyword"].path)
    facts = await runtime.start()
    rows = [decode("audio", recording, facts.inputs, facts.details) for recording in recordings]
    ((places, inputs),) = gather(rows, facts.inputs)
    outputs = await runtime.infer(inputs)
    await runtime.stop()
    assert places == list(range(len(recordings)))
    found = results.of_outputs(outputs, len(rows), results.read_labels(facts.details, {}), False)
    return [one for one in found if isinstance(one, dict)]


async def test_keyword_hears_voices_that_were_held_out() -> None:
    held_out = np.load(Path(__file__).parent / "keyword_held_out.npz")
    found = await heard(*(wav(samples) for samples in held_out["samples"]))
    said = [MODELS["keyword"].labels[label] for label in held_out["labels"]]
    assert len(said) == 18
    assert sum(one["label"] == word for one, word in zip(found, said, strict=True)) >= 15


async def test_keyword_takes_silence_and_noise_for_none_of_the_words() -> None:
    noise = np.random.default_rng(5).integers(64, 192, (20, 16_000), np.uint8)
    found = await heard(wav(np.full(16_000, 128, np.uint8)), *(wav(samples) for samples in noise))
    assert {one["label"] for one in found} == {"other"}


def asked(*questions: str) -> list[str]:
    """In a process of its own, as the engine wants it."""
    requests = [{"messages": [{"role": "user", "content": question}]} for question in questions]
    command = [sys.executable, str(RECIPES / "pebble" / "ask.py"), str(MODELS["pebble"].path)]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [answer["choices"][0]["message"]["content"] for answer in json.loads(done.stdout)]


def test_pebble_answers_about_atoll_and_declines_the_rest() -> None:
    error, word, rest = asked(
        "What does the error key-serial mean?", "What is a stamp?", "What is the capital of France?"
    )
    assert "serial or identity column" in error
    assert "atoll.id()" in error
    assert "later stamp wins" in word
    assert "do not know" in rest
