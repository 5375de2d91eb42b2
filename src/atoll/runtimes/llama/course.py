"""What to make of an engine's exit, how long a start may take. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.runtimes.llama.child import NO_ENGINE, UNUSABLE

START_SECONDS_MIN = 60.0
START_BYTES_PER_SECOND = 20e6  # a slow SD card
# The engine's own lines begin with a time, a level and a place in its source.
_PREFIX = re.compile(r"^[\d.]+ [A-Z] +(?:\S+ +)??\S+: ")


def start_seconds_max(file_bytes: int) -> float:
    """How long loading may take."""
    return START_SECONDS_MIN + file_bytes / START_BYTES_PER_SECOND


def why_ended(code: int) -> str:
    """An exit in words."""
    if code == -signal.SIGKILL:
        return "it was killed (SIGKILL), as the kernel does where memory runs out"
    if code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    return f"it ended with exit code {code}"


def why_not_started(code: int, said: Sequence[str], has_workers: bool = False) -> AtollError:
    """An engine that ended before it was ready: the file is no good, unless something else says so.

    With workers, it crashes on whatever goes wrong with one of them.
    """
    if code == -signal.SIGKILL:
        return LinkError(
            "runtime-broken",
            "could not load the model: its process was killed",
            detail="That is what the kernel does where memory runs out.",
            hint="Ask for a smaller context or fewer requests at once, or use a smaller model.",
        )
    if code == NO_ENGINE:
        return LinkError(
            "runtime-broken",
            "could not load the engine xllamacpp",
            detail=_last(said),
            hint="Install Atoll's dependencies anew.",
        )
    if code < 0 and has_workers:
        return LinkError(
            "runtime-broken",
            "could not load the model together with other nodes",
            detail=f"The engine fails: {why_ended(code)}. {_last(said)}",
            hint="Look at logs/layers.log on the nodes that were to hold layers.",
        )
    detail = _last(said) if code == UNUSABLE else f"The engine fails on it: {why_ended(code)}. {_last(said)}"
    return DataError(
        "model-unusable",
        "cannot load the model",
        detail=detail,
        hint="Compare the file with its source; it may be damaged, or of a kind that is too new.",
    )


def _last(said: Sequence[str]) -> str:
    """The line that says most: an error of the engine's, else the last."""
    errors = [line for line in said if re.match(r"^[\d.]+ E ", line)]
    line = (errors or list(said) or ["It said nothing"])[0 if errors else -1]
    return _PREFIX.sub("", line).strip().rstrip(".") + "."
