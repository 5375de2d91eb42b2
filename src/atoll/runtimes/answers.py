"""Puts the events of a stream together into the one answer that a caller gets who asked for no stream. Pure.

Engines are always streamed from, so this is how every such answer is made, in each of the APIs that STREAMED
names.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from atoll.domain.errors import LinkError
from atoll.runtimes import events

if TYPE_CHECKING:
    from atoll.runtimes.contract import Embeddings

Json = dict[str, Any]
OF_PARTS = ("choices", "usage", "prompt_progress")


def gather(path: str, stream: Iterable[bytes]) -> Json:
    """The answer that all events of a stream amount to; LinkError where they end too early."""
    contents = events.contents(stream)
    if path == "/v1/responses":
        return _response(contents)
    if path == "/v1/messages":
        return _message(contents)
    return _choices(contents, is_chat=path == "/v1/chat/completions")


def embedded(found: Embeddings, body: Mapping[str, Any]) -> Json:
    """Vectors as OpenAI's clients read them: as numbers, or packed where that was asked for."""
    is_packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": index, "embedding": _pack(row) if is_packed else row.tolist()}
        for index, row in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return {"object": "list", "data": data, "usage": usage}


def _pack(row: Any) -> str:
    return base64.b64encode(row.astype("<f4").tobytes()).decode()


def _choices(contents: list[Json], is_chat: bool) -> Json:
    if not contents:
        raise _cut_off()
    answer: Json = {key: value for key, value in contents[0].items() if key not in OF_PARTS}
    answer["object"] = "chat.completion" if is_chat else "text_completion"
    found: dict[int, _Choice] = {}
    for content in contents:
        for part in content.get("choices") or ():
            index = part.get("index", 0)
            choice = found.get(index)
            if choice is None:
                choice = found[index] = _Choice()
            choice.add(part, is_chat)
        if usage := content.get("usage"):
            answer["usage"] = _sum(answer.get("usage"), usage)
        if "timings" in content:
            answer["timings"] = content["timings"]
    if not found or any(choice.finish_reason is None for choice in found.values()):
        raise _cut_off()
    answer["choices"] = [found[index].told(index, is_chat) for index in sorted(found)]
    return answer


class _Choice:
    """One of the choices of an answer, as its parts come."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self._role = "assistant"
        self._texts: dict[str, list[str]] = {}
        self._calls: list[Json] = []
        self._logprobs: Json | None = None

    def add(self, part: Json, is_chat: bool) -> None:
        for key, value in part["delta"].items() if is_chat else (("text", part.get("text")),):
            if key == "role":
                self._role = value or self._role
            elif key == "tool_calls":
                for call in value or ():
                    _add_call(self._calls, call)
            elif isinstance(value, str):
                self._texts.setdefault(key, []).append(value)
        self.finish_reason = part.get("finish_reason") or self.finish_reason
        if logprobs := part.get("logprobs"):
            self._add_logprobs(logprobs)

    def _add_logprobs(self, part: Json) -> None:
        self._logprobs = self._logprobs or {}
        for key, values in part.items():
            if isinstance(values, list):
                self._logprobs.setdefault(key, []).extend(values)

    def told(self, index: int, is_chat: bool) -> Json:
        texts = {key: "".join(pieces) for key, pieces in self._texts.items()}
        told: Json = {"index": index, "finish_reason": self.finish_reason}
        if is_chat:
            calls = {"tool_calls": self._calls} if self._calls else {}
            told["message"] = {"role": self._role, "content": None, **texts, **calls}
        else:
            told["text"] = texts.get("text", "")
        if self._logprobs is not None or not is_chat:
            told["logprobs"] = self._logprobs
        return told


def _add_call(calls: list[Json], part: Json) -> None:
    """A call comes in pieces: its name with the first, its arguments by and by."""
    index = part.get("index", len(calls))
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[index], part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _sum(have: Json | None, more: Json) -> Json:
    """Several choices each say what they took; the prompt was read once for all of one request."""
    if have is None:
        return dict(more)
    completion = have.get("completion_tokens", 0) + more.get("completion_tokens", 0)
    return {
        **have,
        "completion_tokens": completion,
        "total_tokens": have.get("prompt_tokens", 0) + completion,
    }


def _response(contents: list[Json]) -> Json:
    for content in reversed(contents):
        if content.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            return dict(content["response"])
    raise _cut_off()


def _message(contents: list[Json]) -> Json:
    answer: Json = {}
    blocks: dict[int, Json] = {}
    inputs: dict[int, str] = {}
    for content in contents:
        kind, index = content.get("type"), content.get("index", 0)
        if kind == "message_start":
            answer = dict(content["message"])
        elif kind == "content_block_start":
            blocks[index] = dict(content["content_block"])
        elif kind == "content_block_delta" and index in blocks:
            _add_block_delta(blocks[index], content["delta"], inputs, index)
        elif kind == "message_delta":
            answer |= content.get("delta") or {}
            answer["usage"] = {**(answer.get("usage") or {}), **(content.get("usage") or {})}
    if answer.get("stop_reason") is None:
        raise _cut_off()
    for index, text in inputs.items():
        blocks[index]["input"] = _arguments(text)
    answer["content"] = [blocks[index] for index in sorted(blocks)]
    return answer


def _add_block_delta(block: Json, delta: Json, inputs: dict[int, str], index: int) -> None:
    for key, value in delta.items():
        if key == "partial_json":
            inputs[index] = inputs.get(index, "") + value
        elif key != "type" and isinstance(value, str):
            block[key] = (block.get(key) or "") + value


def _arguments(text: str) -> Any:
    """What a tool is called with; a model may have been cut off in the middle of it."""
    try:
        return json.loads(text) if text else {}
    except ValueError:
        return {}


def _cut_off() -> LinkError:
    return LinkError("runtime-broken", "could not answer: the stream ended too early")
