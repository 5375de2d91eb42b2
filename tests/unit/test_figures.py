"""Figures of a measured model: what timings amount to, and that a real model gives some."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.runtimes.figures import Timing, of_language, of_requests, percentile
from atoll.runtimes.measure import Plan, measure


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert percentile(values, 0.5) == 3.0
    assert percentile(values, 0.99) == 5.0
    assert percentile(values, 0.2) == 1.0
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([float(number) for number in range(1, 101)], 0.99) == 99.0
    with pytest.raises(ValueError, match="percentile"):
        percentile([], 0.5)


def test_rates_are_of_the_time_from_the_first_request_to_the_last_answer() -> None:
    found = of_requests([Timing(10.0, 11.0, 11.0, items=32), Timing(10.5, 14.0, 14.0, items=32)])
    assert found["requests_per_second"] == 0.5
    assert found["items_per_second"] == 16.0
    assert (found["p50_seconds"], found["p99_seconds"]) == (1.0, 3.5)


def test_text_is_measured_from_its_first_token_and_a_prompt_until_then() -> None:
    one = Timing(0.0, 0.5, 2.5, items=21, prompt_tokens=100)
    two = Timing(0.0, 1.0, 5.0, items=41, prompt_tokens=100)
    found = of_language([one, two])
    assert found["first_token_p50_seconds"] == 0.5
    assert found["first_token_p99_seconds"] == 1.0
    assert found["prompt_tokens_per_second"] == 100.0
    assert found["tokens_per_second"] == 10.0
    assert found["all_tokens_per_second"] == 62 / 5
    assert of_language([Timing(0, 1, 1, items=1, prompt_tokens=9)])["tokens_per_second"] == 0.0


async def test_a_tensor_model_is_measured_alone_and_together_in_small_and_large_requests(
    tiny_onnx: Path,
) -> None:
    from atoll.runtimes.onnx.runtime import OnnxRuntime

    runtime = OnnxRuntime(tiny_onnx)
    said: list[str] = []
    try:
        rows = await measure(runtime, await runtime.start(), Plan(6, 3, 8, seed=1), said.append)
    finally:
        await runtime.stop()
    assert [(row["callers"], row["batch"]) for row in rows] == [(1, 1), (3, 1), (1, 32), (3, 32)]
    assert all(row["requests"] == 6 and row["requests_per_second"] > 0 for row in rows)
    assert said[-1] == "3 at once, 32 together: 6"
