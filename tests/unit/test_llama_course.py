"""What is made of an engine's exit, and which numbers never reach an engine."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from atoll.domain.errors import ConfigError
from atoll.domain.models import Skill
from atoll.runtimes.llama import course
from atoll.runtimes.llama.wants import Wants, check


def test_a_large_file_may_load_for_longer() -> None:
    assert course.start_seconds_max(4_000_000_000) == course.START_SECONDS_MIN + 200


def test_the_first_error_says_why_it_did_not_start() -> None:
    said = [
        "0.00.001.421 I srv          init: initializing ...",
        "0.00.003.200 E llama_model_load: error loading model: tensor 'x' is missing",
        "0.00.003.300 E srv    load_model: failed to load model",
        "could not load the model: failed",
    ]
    error = course.why_not_started(3, said)
    assert error.code == "model-unusable"
    assert error.detail == "error loading model: tensor 'x' is missing."
    assert "SIGABRT" in (course.why_not_started(-signal.SIGABRT, said).detail or "")
    assert course.why_not_started(3, []).detail == "It said nothing."


def test_a_crash_with_workers_says_nothing_about_the_file() -> None:
    said = ["ggml-rpc.cpp:654: Remote RPC server crashed or returned malformed response"]
    assert course.why_not_started(-signal.SIGABRT, said).code == "model-unusable"
    error = course.why_not_started(-signal.SIGABRT, said, has_workers=True)
    assert error.code == "runtime-broken"
    assert "Remote RPC server crashed" in (error.detail or "")
    assert course.why_not_started(3, said, has_workers=True).code == "model-unusable"


def test_a_start_that_was_killed_is_not_the_files_fault() -> None:
    assert course.why_not_started(-signal.SIGKILL, []).code == "runtime-broken"
    assert course.why_not_started(4, []).code == "runtime-broken"


@pytest.mark.parametrize(
    "wrong",
    [
        {"parallel": 0},
        {"parallel": 65},
        {"context_tokens": 0},
        {"context_tokens": 1 << 20, "parallel": 2},
        {"threads": 0},
        {"threads": -1},
        {"prompt_cache_mib": -1},
        {"cache_type": "f64"},
        {"pooling": "rank"},
        {"skill": Skill.INFER},
        {"skill": Skill.EMBED, "context_tokens": 10_000},
        {"waiting": -1},
    ],
)
def test_numbers_that_make_no_sense_reach_no_engine(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check(Wants(**wrong))
    assert caught.value.code == "runtime-settings"
    assert caught.value.hint
