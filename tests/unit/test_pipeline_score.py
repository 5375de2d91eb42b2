"""Rows are asked about together, and what goes wrong with one is its own: real models, kept by Serving."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.pipelines.job import Job
from atoll.pipelines.score import Answer, _piece, score
from atoll.runtimes.contract import Facts, Runtime, Skill
from atoll.runtimes.echo import EchoRuntime
from atoll.runtimes.onnx.runtime import OnnxRuntime
from atoll.serving.berth import Wanted
from atoll.serving.service import Serving
from support import graphs

MEGABYTE = 1024**2


@asynccontextmanager
async def serving(made: Callable[[], Runtime]) -> AsyncIterator[Serving]:
    kept = Serving(1024 * MEGABYTE)
    said = Facts(frozenset(Skill), MEGABYTE)
    await kept.desire([Wanted("m", "v1", "whole", {}, said, False, made)])
    running = asyncio.create_task(kept.run())
    try:
        yield kept
    finally:
        running.cancel()
        await asyncio.wait({running})


async def ask(file: Path, values: list[Any], kind: str = "tensor", **options: Any) -> Answer:
    async with serving(lambda: OnnxRuntime(file)) as kept:
        return await score(kept, Job("p", 1, kind, "infer", "m", 256, options, 1, "", ""), values)


def with_metadata(file: Path, **metadata: str) -> Path:
    model = onnx.load(file)
    helper.set_model_props(model, metadata)
    onnx.save(model, file)
    return file


def make_image_model(path: Path) -> Path:
    """The mean of each channel."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["scores"]),
    ]
    shape: list[int | str] = ["rows", 3, 4, 4]
    return graphs.save(
        path, nodes, [("pixels", graphs.FLOAT, shape)], [("scores", graphs.FLOAT, ["rows", 3])]
    )


async def test_rows_get_what_the_model_says_of_each_in_their_order(tiny_onnx: Path) -> None:
    values = np.random.default_rng(3).normal(size=(50, 4)).astype(np.float32)
    answer = await ask(tiny_onnx, values.tolist())
    assert answer.version == "v1"
    wanted = graphs.scores(values)
    assert [found["label"] for found in answer.found] == [str(best) for best in wanted.argmax(axis=1)]  # type: ignore[index]
    assert np.allclose([found["score"] for found in answer.found], wanted.max(axis=1), atol=1e-5)  # type: ignore[index]


async def test_a_value_that_the_engine_refuses_takes_no_other_with_it(tmp_path: Path) -> None:
    answer = await ask(graphs.save_lookup(tmp_path / "m.onnx"), [1, 2, 99, 4, "five", -77, 9])
    bad = {2: "the model cannot take these values", 4: "is a text", 5: "the model cannot take these values"}
    for place, found in enumerate(answer.found):
        if place in bad:
            assert isinstance(found, DataError)
            assert bad[place] in found.message
        else:
            assert found["score"] == [1, 2, 0, 4, 0, 0, 9][place] * 1.5  # type: ignore[index]


async def test_a_text_that_is_too_long_takes_no_other_with_it() -> None:
    async with serving(lambda: EchoRuntime(context_tokens=3)) as kept:
        job = Job("p", 1, "text", "generate", "m", 256, {}, 1, "", "")
        answer = await score(kept, job, ["one two", "one two three four", "three"])
    first, long, last = answer.found
    assert isinstance(long, DataError)
    assert long.code == "prompt-too-long"
    assert [isinstance(found, dict) for found in (first, last)] == [True, True]


@pytest.mark.parametrize("save", [graphs.save_centred, graphs.save_int8])
async def test_a_model_that_mixes_rows_is_asked_about_each_alone(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    file = save(tmp_path / "m.onnx")
    values = [[1, 2, 3, 4], [100, 0, -100, 5], [0.1, 0.2, 0.3, 0.4]]
    together = await ask(file, values)
    alone = [(await ask(file, [value])).found[0] for value in values]
    assert together.found == alone


async def test_names_of_classes_and_logits_come_from_the_file(tmp_path: Path) -> None:
    file = with_metadata(graphs.save_tiny(tmp_path / "m.onnx"), labels='["a", "b", "c"]', scores="logits")
    (found,) = (await ask(file, [[1, 2, 3, 4]])).found
    assert isinstance(found, dict)
    assert found["label"] in "abc"
    assert sum(found["scores"].values()) == pytest.approx(1)
    (tmp_path / "more").mkdir()
    beside = graphs.save_tiny(tmp_path / "more" / "m.onnx")
    (beside.parent / "labels.json").write_text('["x", "y", "z"]')
    (found,) = (await ask(beside, [[1, 2, 3, 4]])).found
    assert isinstance(found, dict)
    assert set(found["scores"]) == {"x", "y", "z"}


async def test_pictures_are_scored_and_one_that_is_none_is_said(tmp_path: Path) -> None:
    file = with_metadata(make_image_model(tmp_path / "m.onnx"), labels="red, green, blue", mean="[0,0,0]")
    pictures = []
    for color in ((250, 10, 10), (10, 10, 250)):
        out = io.BytesIO()
        Image.new("RGB", (9, 7), color).save(out, "PNG")
        pictures.append(out.getvalue())
    answer = await ask(file, [pictures[0], b"nothing", pictures[1]], kind="image")
    first, bad, last = answer.found
    assert (first["label"], last["label"]) == ("red", "blue")  # type: ignore[index]
    assert first["score"] == pytest.approx(250 / 255)  # type: ignore[index]
    assert isinstance(bad, DataError)


async def test_what_is_no_rows_fault_is_raised(tiny_onnx: Path) -> None:
    job = Job("p", 1, "text", "embed", "m", 256, {}, 1, "", "")
    async with serving(lambda: OnnxRuntime(tiny_onnx)) as kept:
        with pytest.raises(AtollError) as caught:
            await score(kept, job, ["a text"])
        assert caught.value.code == "skill-missing"
        with pytest.raises(DataError) as unknown:
            await score(kept, Job("p", 1, "tensor", "infer", "n", 256, {}, 1, "", ""), [1])
        assert unknown.value.code == "model-unknown"


def test_the_words_of_an_answer_are_put_together_and_its_error_is_one() -> None:
    assert _piece(b'data: {"choices": [{"delta": {"content": "hot"}}]}\n\n') == "hot"
    assert _piece(b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n') == ""
    assert _piece(b"data: [DONE]\n\n") == _piece(b": still here\n\n") == ""
    for event in (
        b'data: {"error": {"message": "no"}}\n\n',
        b"data: {broken\n\n",
        b'data: {"choices": [1]}\n\n',
    ):
        with pytest.raises(LinkError):
            _piece(event)
