"""What rows' values become before a model is asked, and what its answer becomes."""

from __future__ import annotations

import io
import json
import math
import wave
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from PIL import Image

from atoll.domain.errors import DataError
from atoll.pipelines.decode import decode, gather
from atoll.pipelines.results import as_json, of_outputs, of_text, of_vector, read_labels
from atoll.pipelines.sounds import log_mel
from atoll.runtimes.contract import TensorFacts

X = TensorFacts("x", "FP32", (-1, 4))
PICTURE = TensorFacts("pixels", "FP32", (-1, 3, 8, 16))


def tensor(value: Any, facts: TensorFacts = X, kind: str = "tensor", **options: Any) -> np.ndarray[Any, Any]:
    return decode(kind, value, [facts], options)[facts.name]


def png(color: tuple[int, int, int], size: tuple[int, int] = (32, 32), form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, form)
    return out.getvalue()


def wav(samples: np.ndarray[Any, Any], rate: int = 16_000, width: int = 2, channels: int = 1) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as recording:
        recording.setnchannels(channels)
        recording.setsampwidth(width)
        recording.setframerate(rate)
        scaled = np.repeat(samples, channels) * (2 ** (8 * width - 1) - 1)
        recording.writeframes(scaled.astype(f"<i{width}").tobytes())
    return out.getvalue()


def test_numbers_of_every_kind_become_the_type_of_the_input() -> None:
    for value in ([1, 2, 3, 4], [1.0, 2.0, 3.0, 4.0], [Decimal(n) for n in range(1, 5)], "[1,2,3,4]"):
        found = tensor(value)
        assert found.dtype == np.float32
        assert found.tolist() == [1, 2, 3, 4]
    assert tensor([[1, 2], [3, 4]], TensorFacts("x", "INT64", (-1, 4))).tolist() == [1, 2, 3, 4]
    assert tensor([1, 2, 3, 4], TensorFacts("x", "FP32", (-1, 2, -1))).shape == (2, 2)
    assert tensor(7, TensorFacts("x", "FP32", (-1,))).shape == ()
    assert math.isnan(tensor([float("nan"), 1, 2, 3])[0])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2, 3], 'input "x" has shape [3], and the model wants [4] for a row'),
        ([1, None, 3, 4], 'input "x" has a null in it'),
        ("a word", 'input "x" is a text, and the model wants FP32'),
        ({"y": 1}, 'input "x" cannot be made FP32'),
        ([[1, 2], [3]], 'input "x" cannot be made FP32'),
    ],
)
def test_what_does_not_fit_is_said_of_the_row(value: Any, message: str) -> None:
    with pytest.raises(DataError) as caught:
        tensor(value)
    assert (caught.value.code, caught.value.message) == ("row-unfit", message)


def test_several_inputs_are_given_by_name() -> None:
    inputs = [X, TensorFacts("n", "INT64", (-1,))]
    row = decode("json", {"x": [1, 2, 3, 4], "n": 5}, inputs, {})
    assert {name: array.dtype.name for name, array in row.items()} == {"x": "float32", "n": "int64"}
    with pytest.raises(DataError, match='input "n" is missing'):
        decode("json", {"x": [1, 2, 3, 4]}, inputs, {})
    with pytest.raises(DataError, match="the model has 2 inputs"):
        decode("tensor", [1, 2, 3, 4], inputs, {})


def test_rows_of_like_shape_are_gathered_and_keep_their_places() -> None:
    free = TensorFacts("x", "FP32", (-1, -1))
    rows = [decode("tensor", value, [free], {}) for value in ([1, 2], [3], [4, 5])]
    assert [(places, batch["x"].tolist()) for places, batch in gather(rows, [free])] == [
        ([0, 2], [[1, 2], [4, 5]]),
        ([1], [[3]]),
    ]
    alone = TensorFacts("x", "FP32", (1, 2))
    assert [places for places, _ in gather([rows[0], rows[2]], [alone])] == [[0], [1]]


def test_a_picture_is_resized_scaled_and_normalised() -> None:
    found = tensor(png((255, 0, 51)), PICTURE, "image", mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])
    assert found.shape == (3, 8, 16)
    assert np.allclose(found[:, 0, 0], [1, -1, -0.6], atol=1e-6)
    last = tensor(png((255, 0, 51), form="JPEG"), TensorFacts("p", "UINT8", (-1, 4, 4, 3)), "image")
    assert last.shape == (4, 4, 3)
    assert np.abs(last[0, 0].astype(int) - [255, 0, 51]).max() <= 4
    assert tensor(png((9, 9, 9)), TensorFacts("p", "FP32", (-1, 1, 2, 2)), "image").shape == (1, 2, 2)


def test_bytes_that_are_no_picture_and_pictures_too_large_are_refused() -> None:
    whole = png((1, 2, 3), (64, 64), "JPEG")
    for data in (b"", b"GIF89a nothing", whole[:200]):
        with pytest.raises(DataError, match="the image cannot be read"):
            tensor(data, PICTURE, "image")
    with pytest.raises(DataError, match="the image has 9000 × 9000 pixels"):
        tensor(png((0, 0, 0), (9000, 9000)), PICTURE, "image")
    with pytest.raises(DataError, match="an image has to be bytea"):
        tensor("text", PICTURE, "image")


@pytest.mark.parametrize(("width", "channels", "rate"), [(2, 1, 16_000), (4, 2, 8_000)])
def test_a_recording_becomes_samples_at_the_rate_of_the_model(width: int, channels: int, rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate) / 2
    found = tensor(wav(tone, rate, width, channels), TensorFacts("s", "FP32", (-1, 16_000)), "audio")
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) / 2
    assert np.abs(found - wanted)[:-10].max() < 0.01


def test_a_tone_is_loudest_in_the_mel_that_holds_it() -> None:
    rate, mels = 16_000, 40
    loudest = []
    for hertz in (300, 1000, 4000):
        tone = np.sin(2 * np.pi * hertz * np.arange(rate) / rate)
        found = log_mel(tone, rate, 400, 160, mels)
        assert found.shape == (mels, 98)
        edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), mels + 2) / 2595) - 1)
        best = int(found.mean(axis=1).argmax())
        assert edges[best] < hertz < edges[best + 2]
        loudest.append(best)
    assert loudest == sorted(loudest)


def test_a_spectrogram_is_cut_or_filled_with_silence() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(8000) / 16_000)
    facts = TensorFacts("s", "FP32", (-1, 1, 40, 100))
    found = tensor(wav(tone), facts, "audio")
    assert found.shape == (1, 40, 100)
    assert found[0, :, -1].max() == pytest.approx(math.log(1e-10))
    assert tensor(wav(tone), TensorFacts("s", "FP32", (-1, -1, 24)), "audio").shape == (48, 24)
    for data in (b"RIFF", wav(tone)[:20], wav(np.zeros(0))):
        with pytest.raises(DataError, match="recording"):
            tensor(data, facts, "audio")


def test_scores_are_named_and_become_shares_only_where_the_model_says_so() -> None:
    outputs = {"scores": np.array([[1, 3], [2, 0]], np.float32), "seen": np.array([7, 8])}
    first, second = of_outputs(outputs, 2, ["fine", "hot"], is_logits=False)
    assert first == {"label": "hot", "score": 3, "scores": {"hot": 3, "fine": 1}, "outputs": {"seen": 7}}
    assert isinstance(second, dict)
    assert second["label"] == "fine"
    (shares, _) = of_outputs(outputs, 2, [], is_logits=True)
    assert isinstance(shares, dict)
    assert shares["label"] == "1"
    assert shares["score"] == pytest.approx(1 / (1 + math.exp(-2)))
    assert sum(shares["scores"].values()) == pytest.approx(1)


def test_other_outputs_are_a_label_a_score_or_as_they_are() -> None:
    names = np.array(["cat", "dog"], object)
    found = of_outputs(
        {"name": names, "p": np.array([[0.5], [math.inf]], np.float32)}, 2, [], is_logits=False
    )
    assert found[0] == {"label": "cat", "score": 0.5, "outputs": {"name": "cat", "p": [0.5]}}
    assert isinstance(found[1], DataError)
    (mask,) = of_outputs(
        {"mask": np.full((1, 2, 2), np.nan, np.float32), "big": np.zeros((1, 5000, 2))},
        1,
        [],
        is_logits=False,
    )
    assert mask == {"outputs": {"mask": [[None, None], [None, None]]}, "left_out": ["big"]}
    (odd,) = of_outputs({"mean": np.array(1.0)}, 1, [], is_logits=False)
    assert isinstance(odd, DataError)


def test_a_score_that_is_no_number_fails_its_row_alone() -> None:
    scores = np.array([[1, math.nan], [1, 2]], np.float32)
    bad, good = of_outputs({"scores": scores}, 2, [], is_logits=False)
    assert isinstance(bad, DataError)
    assert isinstance(good, dict)
    assert isinstance(of_vector(np.array([1, math.inf])), DataError)


@pytest.mark.parametrize(
    "told", [["a", "b"], '["a", "b"]', "a, b", "a\nb\n", {"1": "b", "0": "a"}, '{"0": "a", "1": "b"}']
)
def test_labels_are_read_in_the_ways_that_they_are_written(told: Any) -> None:
    assert read_labels({"labels": told}, {}) == ["a", "b"]
    assert read_labels({"labels": told}, {"labels": ["x"]}) == ["x"]


def test_a_text_that_is_json_says_its_label() -> None:
    assert of_text("plain\x00") == {"text": "plain"}
    found = of_text('{"label": "hot", "why": NaN}')
    assert found["label"] == "hot"
    assert json.loads(as_json(found))["json"] == {"label": "hot", "why": None}
    assert of_text("{broken") == {"text": "{broken"}
