"""What a caller may ask of the engine: the body that was sent becomes the one that the engine is given. Pure.

Callers are not trusted and the engine has fields of its own (slots, adapters, grammars, files), so a body is
made anew from the fields that are known here, each within its bounds (fields.py). Others are left out; a few
whose absence would change the answer are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atoll.runtimes.bodies import is_deeper, write_json
from atoll.runtimes.contract import Ask
from atoll.runtimes.llama import calls, fields
from atoll.runtimes.llama.fields import Bounds, refused

BYTES_MAX = 8 * 1024 * 1024
DEPTH_MAX = 64
# An engine that tells its progress notices between batches that nobody listens any more; a short body is not
# worth the event.
SHORT_BYTES = 512
PROGRESS = b',"return_progress":true}'
UNKNOWN_TO_US = ("grammar", "json_schema", "suffix", "echo", "best_of", "previous_response_id")
SAMPLING: Mapping[str, fields.Check] = {
    "temperature": fields.number(0, 10),
    "top_p": fields.number(0, 1),
    "top_k": fields.whole(0, 100_000),
    "min_p": fields.number(0, 1),
    "frequency_penalty": fields.number(-10, 10),
    "presence_penalty": fields.number(-10, 10),
    "repeat_penalty": fields.number(0.1, 10),
    "seed": fields.seed,
}
TALKING: Mapping[str, fields.Check] = {
    "tools": fields.tools,
    "tool_choice": fields.choice,
    "parallel_tool_calls": fields.flag,
    "chat_template_kwargs": fields.template_values,
}
COUNTING: Mapping[str, fields.Check] = {
    "n": fields.choices,
    "stop": fields.stops,
    "logit_bias": fields.biases,
    "stream_options": fields.plain,
}
FIELDS: Mapping[str, Mapping[str, fields.Check]] = {
    "/v1/chat/completions": {
        **SAMPLING,
        **TALKING,
        **COUNTING,
        "messages": fields.messages,
        "max_tokens": fields.tokens,
        "max_completion_tokens": fields.tokens,
        "logprobs": fields.flag,
        "top_logprobs": fields.whole(0, fields.TOP_LOGPROBS_MAX),
        "response_format": fields.form,
        "reasoning_effort": fields.text,
    },
    "/v1/completions": {
        **SAMPLING,
        **COUNTING,
        "prompt": fields.prompts,
        "max_tokens": fields.tokens,
        "logprobs": fields.whole(0, fields.TOP_LOGPROBS_MAX),
    },
    "/v1/responses": {
        **SAMPLING,
        **TALKING,
        "input": fields.messages,
        "instructions": fields.text,
        "max_output_tokens": fields.tokens,
        "reasoning": fields.plain,
        "text": fields.form,
    },
    "/v1/messages": {
        **SAMPLING,
        **TALKING,
        "messages": fields.messages,
        "system": fields.system,
        "max_tokens": fields.tokens,
        "stop_sequences": fields.stops,
        "thinking": fields.plain,
    },
}
NEEDED: Mapping[str, str] = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/responses": "input",
    "/v1/messages": "messages",
}


def engine_body(ask: Ask, bounds: Bounds) -> bytes:
    """The body for the engine; DataError `request-refused` where it cannot be made."""
    known = FIELDS.get(ask.path)
    if known is None:
        raise refused(f"it does not know the path {ask.path}", f"It knows {', '.join(FIELDS)}.")
    if is_deeper(ask.body, DEPTH_MAX):
        raise refused("the request is nested too deep", f"It may have {DEPTH_MAX} levels.")
    if ask.body.get(NEEDED[ask.path]) is None:
        raise refused(f'"{NEEDED[ask.path]}" is missing')
    for name in UNKNOWN_TO_US:
        if ask.body.get(name):
            raise refused(f'"{name}" is not supported', "Leave it away.")
    body = {
        name: check(name, ask.body[name], bounds)
        for name, check in known.items()
        if ask.body.get(name) is not None
    }
    if calls.insists(ask.path, body):
        body = calls.insisted(body)
    body["stream"] = True
    if not ask.body.get("stream") and "stream_options" in known:
        body["stream_options"] = {"include_usage": True}  # for whoever puts the answer together
    body |= _adapters(ask, bounds)
    try:
        text = write_json(body)
    except ValueError:
        raise refused("the request is not JSON", "Numbers have to be finite.") from None
    if len(text) > BYTES_MAX:
        raise refused("the request is too long", f"It may have {BYTES_MAX // 1024**2} MB.")
    return text if len(text) <= SHORT_BYTES else text[:-1] + PROGRESS


def _adapters(ask: Ask, bounds: Bounds) -> dict[str, Any]:
    """Every adapter by its number: what is not named would keep the scale of an earlier request."""
    if ask.adapter is not None and ask.adapter not in bounds.adapters:
        known = ", ".join(bounds.adapters) or "none"
        raise refused(f'it has no adapter "{ask.adapter}"', f"It has: {known}.")
    if not bounds.adapters:
        return {}
    if ask.path == "/v1/messages" and ask.adapter is not None:
        # The engine takes no adapters on this path.
        raise refused("an adapter cannot be asked on this path", "Ask it on /v1/chat/completions.")
    scales = [
        {"id": number, "scale": 1.0 if name == ask.adapter else 0.0}
        for number, name in enumerate(bounds.adapters)
    ]
    return {"lora": scales, "cache_prompt": True}
