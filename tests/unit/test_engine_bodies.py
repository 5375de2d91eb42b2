"""What an engine is asked: its progress only where there is some to tell."""

from __future__ import annotations

import json

import pytest

from atoll.runtimes.contract import Ask
from atoll.runtimes.llama.bodies import SHORT_BYTES, engine_body
from atoll.runtimes.llama.fields import Bounds
from support.fix_runtimes import CHAT, saying


@pytest.mark.parametrize(("letters", "tells"), [(10, False), (SHORT_BYTES, True), (100_000, True)])
def test_an_engine_tells_its_progress_with_a_long_body(letters: int, tells: bool) -> None:
    body = saying("x" * letters, max_tokens=3)
    found = json.loads(engine_body(Ask(CHAT, body), Bounds(1024, 1)))
    assert found.pop("return_progress", False) is tells
    assert found.pop("stream") is True
    assert found.pop("stream_options") == {"include_usage": True}
    assert found == body
