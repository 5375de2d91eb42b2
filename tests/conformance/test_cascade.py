"""A cascade over two models that run: nothing is streamed twice, and an answer comes whatever fails."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import DataError, LinkError
from atoll.router.cascades import cascading
from atoll.router.policy import cascade
from atoll.router.policy.confidence import Measure
from atoll.runtimes import answers, events
from atoll.runtimes.contract import Ask, Runtime
from support import graphs
from support.fix_models import write_model
from support.fix_runtimes import CHAT, Running, StartLlama, saying

ANYWHERE: list[str] = []


@dataclass
class Way:
    """One model of a cascade, and what was asked of it."""

    runtime: Runtime
    path: str = CHAT
    bodies: list[Mapping[str, Any]] = field(default_factory=list)
    open: int = 0
    error: Exception | None = None
    after_events: int | None = None

    @asynccontextmanager
    async def __call__(self, body: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        self.bodies.append(body)
        if self.error is not None and self.after_events is None:
            raise self.error
        async with self.runtime.generate(Ask(self.path, body)) as found:
            self.open += 1
            try:
                yield self._broken(found)
            finally:
                self.open -= 1

    async def _broken(self, found: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        number = 0
        async for event in found:
            if self.error is not None and number == self.after_events:
                raise self.error
            number += 1
            yield event


@dataclass
class Pair:
    first: Way
    then: Way

    async def ask(
        self,
        body: Mapping[str, Any],
        barred: list[str] = ANYWHERE,
        **policy: Any,
    ) -> tuple[str | None, cascade.Verdict, list[bytes]]:
        told = {"first": "small", "then": "large", "measure": "mean_logprob", **policy}
        async with cascading.generate(
            cascade.parse(told), self.first.path, body, self.first, self.then, lambda: barred
        ) as answer:
            return answer.model, answer.verdict, [event async for event in answer.events]

    async def alone(self, way: Way, body: Mapping[str, Any]) -> dict[str, Any]:
        async with way.runtime.generate(Ask(way.path, body)) as found:
            return answers.gather(way.path, [event async for event in found])


@pytest.fixture
async def pair(start_llama: StartLlama, tmp_path: Path) -> Pair:
    """The tiny model, and one of twice its width that says other words."""
    write_model(tmp_path / "large.gguf", seed=12, width=128)
    small: Running = await start_llama(parallel=4)
    large: Running = await start_llama(tmp_path / "large.gguf")
    return Pair(Way(small.runtime), Way(large.runtime))


def said(found: list[bytes]) -> str:
    return str(answers.gather(CHAT, found)["choices"][0]["message"]["content"])


QUESTION = saying("ka lo mi", max_tokens=12)


async def test_a_sure_answer_is_the_small_models_and_as_it_would_be_without_a_cascade(pair: Pair) -> None:
    model, verdict, found = await pair.ask(QUESTION, threshold=0.0)
    assert (model, verdict.goes_on) == ("small", False)
    assert verdict.confidence is not None
    assert 0 < verdict.confidence < 1
    plain = await pair.alone(pair.first, QUESTION)
    assert answers.gather(CHAT, found)["choices"] == plain["choices"]
    assert not any(b"logprobs" in event for event in found)
    assert pair.then.bodies == []


async def test_an_unsure_answer_is_the_large_models_alone(pair: Pair) -> None:
    model, verdict, found = await pair.ask(QUESTION, threshold=1.0)
    assert (model, verdict.goes_on) == ("large", True)
    large = await pair.alone(pair.then, QUESTION)
    assert said(found) == large["choices"][0]["message"]["content"]
    assert pair.then.bodies == [QUESTION]


@pytest.mark.parametrize("measure", ["mean_logprob", "min_margin", "entropy", "agreement"])
async def test_every_measure_lies_between_nought_and_one(pair: Pair, measure: str) -> None:
    _, verdict, found = await pair.ask(QUESTION, threshold=0.0, measure=measure)
    assert verdict.confidence is not None
    assert 0 <= verdict.confidence <= 1
    assert said(found) == (await pair.alone(pair.first, QUESTION))["choices"][0]["message"]["content"]
    assert pair.first.open == 0


async def test_a_caller_who_asks_for_log_probabilities_gets_them(pair: Pair) -> None:
    body = {**QUESTION, "logprobs": True, "top_logprobs": 2}
    _, _, found = await pair.ask(body, threshold=0.0)
    told = answers.gather(CHAT, found)["choices"][0]["logprobs"]["content"]
    assert len(told) == 12


async def test_what_may_not_go_on_is_answered_by_the_small_model(pair: Pair) -> None:
    model, verdict, found = await pair.ask(QUESTION, threshold=1.0, barred=["scope local may not go there"])
    assert (model, verdict.goes_on) == ("small", False)
    assert "scope local" in verdict.why
    assert said(found)
    assert pair.then.bodies == []


@pytest.mark.parametrize("measure", list(Measure)[:4])
async def test_where_the_large_model_fails_the_small_models_answer_is_there(pair: Pair, measure: str) -> None:
    pair.then.error = LinkError("runtime-broken", "could not answer: it is away")
    model, verdict, found = await pair.ask(QUESTION, threshold=1.0, measure=measure)
    assert model == "small"
    assert "it is away" in verdict.why
    assert said(found) == (await pair.alone(pair.first, QUESTION))["choices"][0]["message"]["content"]


async def test_where_the_small_model_breaks_in_the_middle_nobody_notices(pair: Pair) -> None:
    pair.first.error, pair.first.after_events = LinkError("runtime-broken", "could not answer"), 3
    model, verdict, found = await pair.ask(QUESTION, threshold=0.0)
    assert (model, verdict.confidence) == ("large", None)
    assert said(found) == (await pair.alone(pair.then, QUESTION))["choices"][0]["message"]["content"]


async def test_where_both_fail_the_small_models_error_is_told(pair: Pair) -> None:
    pair.first.error = LinkError("runtime-crowded", "could not answer: too many wait")
    pair.then.error = LinkError("runtime-broken", "could not answer")
    with pytest.raises(LinkError, match="too many wait"):
        await pair.ask(QUESTION, threshold=0.0)


async def test_a_request_that_is_wrong_is_not_sent_on(pair: Pair) -> None:
    with pytest.raises(DataError):
        await pair.ask({**QUESTION, "temperature": -1}, threshold=0.5)
    assert pair.then.bodies == []


async def test_a_first_token_decides_before_the_answer_is_done(pair: Pair) -> None:
    policy = cascade.parse({"first": "small", "then": "large", "measure": "entropy", "threshold": 0.0})
    async with cascading.generate(
        policy, CHAT, {**QUESTION, "max_tokens": 400}, pair.first, pair.then, lambda: ANYWHERE
    ) as answer:
        assert pair.first.open == 1
        first = [await anext(answer.events) for _ in range(3)]
    assert all(events.content(event) for event in first)
    assert pair.first.open == 0


async def test_with_tools_the_engine_says_nothing_of_tokens_and_the_request_goes_on(pair: Pair) -> None:
    look = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    model, verdict, _ = await pair.ask({**QUESTION, "tools": [look]}, threshold=0.0)
    assert (model, verdict.confidence) == ("large", None)


async def test_only_unsure_rows_go_on_and_come_back_to_their_places(tiny_onnx: Path, tmp_path: Path) -> None:
    from atoll.runtimes.onnx.runtime import OnnxRuntime
    from atoll.runtimes.onnx.wants import Wants

    other = graphs.save_tiny(tmp_path / "other.onnx", weight=-graphs.WEIGHT)
    rows = np.random.default_rng(7).normal(size=(16, 4)).astype(np.float32) * 3
    async with AsyncExitStack() as stack:
        asked: list[int] = []
        runtimes = [OnnxRuntime(file, Wants(threads=1)) for file in (tiny_onnx, other)]
        for runtime in runtimes:
            await runtime.start()
            stack.push_async_callback(runtime.stop)
        small, large = [await runtime.infer({"x": rows}) for runtime in runtimes]

        async def then(inputs: Any) -> Any:
            asked.append(len(inputs["x"]))
            return await runtimes[1].infer(inputs)

        told = {"first": "small", "then": "large", "measure": "score", "threshold": 0.8}
        found = await cascading.infer(
            cascade.parse(told), {"x": rows}, runtimes[0].infer, then, lambda: ANYWHERE
        )
        assert 0 < found.rows_gone_on < 16
        assert asked == [found.rows_gone_on]
        is_large = np.all(found.outputs["scores"] == large["scores"], axis=1)
        is_small = np.all(found.outputs["scores"] == small["scores"], axis=1)
        assert np.all(is_small | is_large)
        assert is_large.sum() >= found.rows_gone_on
        best = np.where(is_large, large["best"], small["best"])
        assert np.array_equal(found.outputs["best"], best)
        assert found.unsure is not None
        unsure, said_first, said_then = found.unsure
        assert len(unsure["x"]) == found.rows_gone_on
        assert said_then is not None
        assert len(said_first["scores"]) == len(said_then["scores"]) == found.rows_gone_on
        whole = await cascading.infer(
            cascade.parse({**told, "split_rows": False}),
            {"x": rows},
            runtimes[0].infer,
            then,
            lambda: ANYWHERE,
        )
        assert np.array_equal(whole.outputs["scores"], large["scores"])
        barred = await cascading.infer(
            cascade.parse(told), {"x": rows}, runtimes[0].infer, then, lambda: ["scope local"]
        )
        assert np.array_equal(barred.outputs["scores"], small["scores"])
        assert asked == [found.rows_gone_on, 16]
