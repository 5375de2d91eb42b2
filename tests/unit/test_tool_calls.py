"""Calls that are insisted on: the schema of what may be called, and words that become a call."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from atoll.domain.errors import DataError
from atoll.runtimes.answers import gather
from atoll.runtimes.llama import calls

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"at": {"$ref": "#/$defs/Reef"}},
            "$defs": {"Reef": {"type": "string"}},
        },
    },
}
OTHER = {"type": "function", "function": {"name": "leave"}}


async def streamed(*choices: dict[str, Any]) -> AsyncIterator[bytes]:
    for choice in choices:
        yield b"data: " + json.dumps({"id": "x", "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


async def told(*choices: dict[str, Any]) -> Any:
    found = [event async for event in calls.as_calls(streamed(*choices))]
    assert found[-1] == b"data: [DONE]\n\n"
    return gather(calls.CHAT, found)["choices"][0]


def said(text: str | None, end: str | None = None) -> dict[str, Any]:
    return {"delta": {} if text is None else {"content": text}, "finish_reason": end}


@pytest.mark.parametrize("choice", ["none", "auto", None, {"type": "auto"}, {"type": "allowed_tools"}])
def test_what_is_left_to_the_model_is_left_to_it(choice: Any) -> None:
    assert not calls.insists(calls.CHAT, {"tools": [TOOL], "tool_choice": choice})
    assert not calls.insists(calls.CHAT, {"tool_choice": "required"})


def test_each_tool_is_one_of_what_may_be_said_with_its_own_definitions() -> None:
    made = calls.insisted({"tools": [TOOL, OTHER, TOOL], "tool_choice": "required", "n": 1})
    schema = made["response_format"]["json_schema"]["schema"]
    assert [one["properties"]["name"]["const"] for one in schema["anyOf"]] == ["look", "leave", "look"]
    refs = [schema["anyOf"][at]["properties"]["arguments"]["properties"]["at"]["$ref"] for at in (0, 2)]
    assert refs == ["#/$defs/0-Reef", "#/$defs/2-Reef"]
    assert schema["$defs"] == {"0-Reef": {"type": "string"}, "2-Reef": {"type": "string"}}
    assert (made["n"], "tool_choice" in made, len(made["tools"])) == (1, False, 3)


def test_one_that_is_named_is_the_only_one() -> None:
    choice = {"type": "function", "function": {"name": "leave"}}
    assert calls.insisted({"tools": [TOOL, OTHER], "tool_choice": choice})["tools"] == [OTHER]


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "leave"}}},
        {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "look"}},
        {"tools": [{"type": "retrieval"}], "tool_choice": "required"},
        {"tools": [{"function": {"name": "f", "parameters": "none"}}], "tool_choice": "any"},
        {"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}},
    ],
)
def test_what_makes_no_sense_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        calls.insisted(body)
    assert refused.value.code == "request-refused"


async def test_words_become_a_call_at_their_end() -> None:
    choice = await told(said('{"name": "look", "argu'), said('ments": {"at": "x"}}'), said(None, "stop"))
    (call,) = choice["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("look", {"at": "x"})
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)


async def test_words_that_were_cut_off_stay_words() -> None:
    choice = await told(said('{"name": "look", '), said('"arguments"', "length"))
    assert choice["message"]["content"] == '{"name": "look", "arguments"'
    assert choice["finish_reason"] == "length"
    assert "tool_calls" not in choice["message"]


async def test_log_probabilities_come_all_the_same() -> None:
    known = {"content": [{"token": "a", "logprob": -0.5}]}
    choice = await told({**said("{"), "logprobs": known}, said('"name": "a", "arguments": {}}', "stop"))
    assert choice["logprobs"] == known
    assert choice["message"]["tool_calls"]
