"""`atoll key` on a real node, asked by the client of OpenAI."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest

from support.fix_home import atoll, starting

pytestmark = pytest.mark.slow
ASKED: dict[str, Any] = {
    "model": "pebble",
    "messages": [{"role": "user", "content": "What is an atoll?"}],
    "max_tokens": 2,
}


def test_a_key_is_slowed_down_and_changed_while_it_lives(open_folder: Path) -> None:
    with starting(open_folder / "home") as start:
        node = start()

        def run(*arguments: str) -> str:
            done = atoll(*arguments, "--home", str(node.home))
            assert done.returncode == 0, done.stderr
            return done.stdout

        def client(key: str, retries: int = 0) -> openai.OpenAI:
            return openai.OpenAI(base_url=f"{node.http}/v1", api_key=key, max_retries=retries)

        key = run("key", "add", "till", "--rate", "1/h", "--tokens", "5000/min").strip()

        assert rate(client(key)) == "1", "the key is good when the command has ended"
        with client(key) as asking, pytest.raises(openai.RateLimitError) as refused:
            asking.chat.completions.create(**ASKED)
        assert refused.value.code == "rate-exceeded"
        head = refused.value.response.headers
        assert 3000 < int(head["retry-after"]) <= 3600
        assert head["x-ratelimit-limit-tokens"] == "5000"
        assert head["x-ratelimit-remaining-requests"] == "0"

        assert "till is changed" in run("key", "set", "till", "--rate", "1/s", "--scope", "local")
        assert rate(client(key)) == "1"
        with client(key, retries=4) as asking:
            for _ in range(3):  # faster than the rate: the client waits as it is told, and is answered
                assert asking.chat.completions.create(**ASKED).choices
        run("key", "set", "till", "--rate", "none")
        assert rate(client(key)) is None
        (line,) = [line for line in run("key", "list").splitlines() if line.startswith("till")]
        assert line.split()[3:] == ["5000/min", "local"]
        assert "atoll_key_refusals_total" in node.get("/metrics")[1]

        os.kill(node.pid, signal.SIGSTOP)
        try:
            done = atoll("key", "add", "later", "--home", str(node.home))
        finally:
            os.kill(node.pid, signal.SIGCONT)
        assert (done.returncode, done.stdout[:6]) == (0, "atoll-")
        assert "goes by it later" in done.stderr
        assert node.end() == 0, node.output


def rate(asking: openai.OpenAI) -> str | None:
    """The rate that an answer tells; also a refusal tells it."""
    with asking:
        try:
            head = asking.chat.completions.with_raw_response.create(**ASKED).headers
        except openai.RateLimitError as refused:
            head = refused.response.headers
    return head.get("x-ratelimit-limit-requests")
