"""Calls of tools that a caller insists on. Pure.

The engine leaves the choice to the model, whatever `tool_choice` says. So the answer is held to a schema of
the calls that there may be, and told to the caller as a call.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from atoll.runtimes import events
from atoll.runtimes.llama.fields import refused

CHAT = "/v1/chat/completions"
WORDS = ("required", "any", "tool", "function")
REFS = ("$defs", "definitions")
Json = dict[str, Any]


def insists(path: str, body: Mapping[str, Any]) -> bool:
    """Does somebody want a call and no words?"""
    choice = body.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in WORDS or not body.get("tools"):
        return False
    if path != CHAT:
        raise refused("a call of a tool cannot be insisted on on this path", f"Ask on {CHAT}.")
    return True


def insisted(body: Mapping[str, Any]) -> Json:
    """The same with a schema in the place of the choice."""
    if body.get("response_format") is not None:
        raise refused("it is to call a tool and to answer in a format", "Leave one of them away.")
    choice, tools = body["tool_choice"], list(body["tools"])
    if isinstance(choice, Mapping):
        named = (choice.get("function") or {}).get("name") if choice.get("type") == "function" else None
        tools = [tool for tool in tools if _of(tool).get("name") == named]
        if not tools:
            raise refused(f'there is no tool "{named}" to call')
    calls, defs = [], Json()
    for number, tool in enumerate(tools):
        calls.append(_call(_of(tool), f"{number}-", defs))
    schema = {"anyOf": calls, "$defs": defs}
    form = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
    kept = {name: value for name, value in body.items() if name != "tool_choice"}
    return {**kept, "tools": tools, "response_format": form}


def _of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    found = tool.get("function")
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise refused("a tool is no function with a name")
    return found


def _call(function: Mapping[str, Any], prefix: str, defs: Json) -> Json:
    """What its parameters refer to stands at the root, apart from the others'."""
    told = function.get("parameters") or {"type": "object"}
    if not isinstance(told, Mapping):
        raise refused("the parameters of a tool are no schema")
    for name in REFS:
        if isinstance(own := told.get(name), Mapping):
            defs |= {prefix + key: _moved(value, prefix) for key, value in own.items()}
    arguments = _moved({name: value for name, value in told.items() if name not in REFS}, prefix)
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(value: Any, prefix: str) -> Any:
    """No deeper than schemas may be: that has been looked at."""
    if isinstance(value, Mapping):
        return {
            name: _moved_ref(one, prefix) if name == "$ref" else _moved(one, prefix)
            for name, one in value.items()
        }
    return [_moved(one, prefix) for one in value] if isinstance(value, list) else value


def _moved_ref(told: Any, prefix: str) -> Any:
    for name in REFS:
        if isinstance(told, str) and told.startswith(f"#/{name}/"):
            return f"#/$defs/{prefix}{told.removeprefix(f'#/{name}/')}"
    return told


async def as_calls(stream: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The words of each choice are held back until they are a call; those that were cut off stay words."""
    said: dict[int, str] = {}
    async for event in stream:
        content = events.content(event)
        if content is None or not content.get("choices"):
            yield event
            continue
        choices = [one for part in content["choices"] if (one := _told(part, said))]
        if choices:
            yield b"data: " + json.dumps({**content, "choices": choices}).encode() + b"\n\n"


def _told(part: Json, said: dict[int, str]) -> Json | None:
    index, delta = part.get("index", 0), dict(part.get("delta") or {})
    said[index] = said.get(index, "") + (delta.pop("content", None) or "")
    end = part.get("finish_reason")
    if end is None:
        return {**part, "delta": delta} if delta or part.get("logprobs") else None
    words = said.pop(index)
    call = _read(words)
    if call is None:
        return {**part, "delta": {**delta, "content": words}}
    return {**part, "delta": {**delta, "tool_calls": [call]}, "finish_reason": "tool_calls"}


def _read(words: str) -> Json | None:
    try:
        told = json.loads(words)
    except ValueError:
        return None
    function = {"name": told["name"], "arguments": json.dumps(told["arguments"])}
    return {"index": 0, "id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}
