"""Words as the events of each API that STREAMED names. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Saying:
    """What is said, and why it ends there."""

    model: str
    words: Sequence[str]
    read: int  # words of the prompt
    is_cut: bool

    @property
    def text(self) -> str:
        return "".join(self.words)


def events(path: str, saying: Saying, wants_usage: bool) -> Iterator[bytes]:
    for found in SHAPES[path](saying):
        if found.get("choices") == [] and not wants_usage:
            continue
        head = f"event: {found['type']}\n" if "type" in found else ""
        yield f"{head}data: {json.dumps(found)}\n\n".encode()
    if path in ("/v1/chat/completions", "/v1/completions"):
        yield b"data: [DONE]\n\n"


def _chat(saying: Saying) -> Iterator[dict[str, Any]]:
    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {**_head("chat.completion.chunk", saying), "choices": [choice]}

    yield chunk({"role": "assistant", "content": ""})
    for word in saying.words:
        yield chunk({"content": word})
    yield chunk({}, _finish(saying))
    yield {**_head("chat.completion.chunk", saying), "choices": [], "usage": _usage(saying)}


def _completion(saying: Saying) -> Iterator[dict[str, Any]]:
    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return {**_head("text_completion", saying), "choices": [choice]}

    for word in saying.words:
        yield chunk(word)
    yield chunk("", _finish(saying))
    yield {**_head("text_completion", saying), "choices": [], "usage": _usage(saying)}


def _response(saying: Saying) -> Iterator[dict[str, Any]]:
    head = {"id": "resp_echo", "object": "response", "created_at": 0, "model": saying.model}
    yield {"type": "response.created", "response": {**head, "status": "in_progress", "output": []}}
    for word in saying.words:
        yield {"type": "response.output_text.delta", "item_id": "msg_echo", "delta": word}
    part = {"type": "output_text", "text": saying.text, "annotations": []}
    item = {
        "type": "message",
        "id": "msg_echo",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    usage = {"input_tokens": saying.read, "output_tokens": len(saying.words)}
    whole = {
        **head,
        "status": "completed",
        "output": [item],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }
    yield {"type": "response.completed", "response": whole}


def _message(saying: Saying) -> Iterator[dict[str, Any]]:
    head = {"id": "msg_echo", "type": "message", "role": "assistant", "content": [], "model": saying.model}
    ends: dict[str, str | None] = {"stop_reason": None, "stop_sequence": None}
    usage = {"input_tokens": saying.read, "output_tokens": 0}
    yield {"type": "message_start", "message": {**head, **ends, "usage": usage}}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    for word in saying.words:
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
    yield {"type": "content_block_stop", "index": 0}
    ends["stop_reason"] = "max_tokens" if saying.is_cut else "end_turn"
    yield {"type": "message_delta", "delta": ends, "usage": {"output_tokens": len(saying.words)}}
    yield {"type": "message_stop"}


def _head(kind: str, saying: Saying) -> dict[str, Any]:
    return {"id": "echo", "object": kind, "created": 0, "model": saying.model}


def _finish(saying: Saying) -> str:
    return "length" if saying.is_cut else "stop"


def _usage(saying: Saying) -> dict[str, int]:
    said = len(saying.words)
    return {"prompt_tokens": saying.read, "completion_tokens": said, "total_tokens": saying.read + said}


SHAPES: Mapping[str, Callable[[Saying], Iterator[dict[str, Any]]]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/messages": _message,
}
