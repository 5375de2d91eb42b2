"""What an engine's answer other than 200 means: who can act on it. Pure.

A caller can mend a bad request (DataError); what is busy, away or wrongly set up may work later or elsewhere
(LinkError), and keeps the time after which the other side wants to be asked again.
"""

from __future__ import annotations

import json
import re
from typing import Any

from atoll.domain.errors import AtollError, DataError, LinkError

WORDS_MAX = 500
BUSY = (429, 503, 529)
SETUP = (401, 402, 403, 404, 405)
RETRY_SECONDS_MAX = 3600.0
TOO_LONG, TOO_LONG_FOR_OPENAI = "prompt-too-long", "context_length_exceeded"
# In the words of llama.cpp, OpenAI and vLLM, and Anthropic.
_SAYS_TOO_LONG = re.compile(
    f"exceeds? the available context size|{TOO_LONG_FOR_OPENAI}|maximum context length|prompt is too long",
    re.IGNORECASE,
)


def explain(status: int, body: str, retry_after: str | None = None) -> AtollError:
    """The error for an answer, by its status."""
    words = _words(body) or f"HTTP status {status}"
    if status in BUSY:
        busy = LinkError("runtime-crowded", "could not take the request now", detail=_sentence(words))
        busy.retry_after_seconds = _seconds(retry_after)
        return busy
    if status in SETUP:
        return LinkError(
            "runtime-broken",
            "could not ask the upstream",
            detail=_sentence(words),
            hint="Check its address, its key and the model's name there.",
        )
    if status in (400, 413) and _SAYS_TOO_LONG.search(body):
        return too_long(_sentence(words))
    if 400 <= status < 500:
        return DataError("request-refused", "cannot answer the request", detail=_sentence(words))
    return LinkError("runtime-broken", "could not answer: the engine failed", detail=_sentence(words))


def too_long(detail: str) -> DataError:
    """Another model may read more."""
    return DataError(
        "prompt-too-long",
        "cannot answer the request: it is longer than the model's context",
        detail=detail,
        hint="Say less, or ask a model that reads more.",
    )


def explain_event(content: dict[str, Any] | None) -> AtollError:
    """The error for an event in the middle of a stream."""
    error = (content or {}).get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return explain(code if isinstance(code, int) else 500, json.dumps(content))


def _words(body: str) -> str:
    """What an answer says for people, whichever of the usual shapes it has."""
    try:
        found = json.loads(body)
    except ValueError:
        return body.strip()[:WORDS_MAX]
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return (found if isinstance(found, str) else json.dumps(found)).strip()[:WORDS_MAX]


def _sentence(words: str) -> str:
    return words if words.endswith((".", "!", "?")) else f"{words}."


def _seconds(text: str | None) -> float | None:
    """The header's seconds; a date is not worth its trouble."""
    try:
        return min(RETRY_SECONDS_MAX, max(0.0, float(text or "")))
    except ValueError:
        return None
