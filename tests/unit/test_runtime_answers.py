"""Events are cut out of bytes and put together into one answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.domain.errors import LinkError
from atoll.runtimes import answers, events, refusals

CHAT = "/v1/chat/completions"


def lines(*contents: dict[str, Any]) -> list[bytes]:
    return [f"data: {json.dumps(content)}\n\n".encode() for content in contents] + [b"data: [DONE]\n\n"]


def delta(finish: str | None = None, index: int = 0, **values: Any) -> dict[str, Any]:
    return {"id": "a", "choices": [{"index": index, "delta": values, "finish_reason": finish}]}


@given(st.lists(st.sampled_from([b"data: 1\n\n", b"event: x\r\ndata: 2\r\n\r\n", b":\n\n"])), st.data())
def test_events_are_whole_however_their_bytes_come(whole: list[bytes], data: st.DataObject) -> None:
    text = b"".join(whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)))))
    splitter = events.Splitter()
    found = [
        event
        for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)
        for event in splitter.feed(text[begin:end])
    ]
    assert [event.strip() for event in found + splitter.last()] == [event.strip() for event in whole]
    assert events.split(text) == whole
    assert all(events.count(one * times) == times for one in whole for times in range(4))


def test_an_event_without_an_end_is_given_up() -> None:
    splitter = events.Splitter()
    assert splitter.feed(b"x" * events.EVENT_BYTES_MAX) == []
    with pytest.raises(events.EventTooLong):
        splitter.feed(b"x")


def test_words_of_a_caller_are_no_error() -> None:
    assert events.is_error(b'data: {"error":{"code":500}}\n\n')
    assert events.is_error(b"event: error\ndata: {}\n\n")
    assert not events.is_error(lines(delta(content='"error"'))[0])


@given(
    st.lists(
        st.sampled_from(
            [
                b'data: {"a": 1}\n\n',
                b'data: {"a": "\xc3\xa9", "b": [1, {"c": null}]}\r\n\r\n',
                b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
                b'data: {"a":\ndata: 2}\n\n',
                b'data: {"a": NaN}\n\n',
                b'data: {"a": "\xff"}\n\n',
                b'data: {"a"\n\n',
                b"data: [1, 2]\n\n",
                b"data: null\n\n",
                b"data: \n\n",
                b": still there\n\n",
                b"data: [DONE]\n\n",
            ]
        ),
        max_size=6,
    )
)
def test_all_contents_are_those_of_each(stream: list[bytes]) -> None:
    each = [found for event in stream if (found := events.content(event)) is not None]
    assert repr(events.contents(iter(stream))) == repr(each), "NaN is not itself"


def test_a_chat_has_its_text_its_reasoning_and_its_reason() -> None:
    stream = lines(
        delta(role="assistant", content=None),
        delta(reasoning_content="let me "),
        delta(reasoning_content="see"),
        delta(content="4"),
        delta(content="2"),
        delta("stop"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
    )
    answer = answers.gather(CHAT, stream)
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "42", "reasoning_content": "let me see"}
    assert (choice["finish_reason"], answer["object"], answer["id"]) == ("stop", "chat.completion", "a")
    assert answer["usage"]["total_tokens"] == 5


def test_choices_of_a_completion_are_told_by_their_number() -> None:
    parts = [
        {"index": 1, "text": "re", "finish_reason": None, "logprobs": {"tokens": ["re"], "top": None}},
        {"index": 0, "text": "", "finish_reason": "length"},
        {"index": 1, "text": "ef", "finish_reason": "stop", "logprobs": {"tokens": ["ef"]}},
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    stream = lines(*({"id": "a", "choices": [part], "usage": usage} for part in parts))
    assert answers.gather("/v1/completions", stream) == {
        "id": "a",
        "object": "text_completion",
        "usage": {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9},
        "choices": [
            {"index": 0, "finish_reason": "length", "text": "", "logprobs": None},
            {"index": 1, "finish_reason": "stop", "text": "reef", "logprobs": {"tokens": ["re", "ef"]}},
        ],
    }


def test_calls_of_tools_come_in_pieces() -> None:
    def call(index: int, **values: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, **values}])

    stream = lines(
        call(0, id="x", type="function", function={"name": "look", "arguments": ""}),
        call(0, function={"arguments": '{"place":'}),
        call(1, id="y", type="function", function={"name": "go", "arguments": "{}"}),
        call(0, function={"arguments": '"reef"}'}),
        delta("tool_calls"),
    )
    message = answers.gather(CHAT, stream)["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "x", "type": "function", "function": {"name": "look", "arguments": '{"place":"reef"}'}},
        {"id": "y", "type": "function", "function": {"name": "go", "arguments": "{}"}},
    ]


def test_a_message_has_its_thoughts_its_text_and_its_tools() -> None:
    def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
        begin = {"type": "content_block_start", "index": index, "content_block": start}
        return [begin, *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas)]

    stream = lines(
        {"type": "message_start", "message": {"id": "m", "content": [], "usage": {"input_tokens": 4}}},
        *block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "hm"}),
        *block(1, {"type": "text", "text": ""}, *[{"type": "text_delta", "text": t} for t in ("a", "b")]),
        *block(
            2,
            {"type": "tool_use", "id": "t", "name": "look", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"a":'},
            {"type": "input_json_delta", "partial_json": "1}"},
        ),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    )
    answer = answers.gather("/v1/messages", stream)
    assert answer["content"] == [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "ab"},
        {"type": "tool_use", "id": "t", "name": "look", "input": {"a": 1}},
    ]
    assert answer["usage"] == {"input_tokens": 4, "output_tokens": 7}


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_stream_that_ends_too_early_is_no_answer(path: str) -> None:
    for stream in ([], lines(delta(content="half"))):
        with pytest.raises(LinkError) as caught:
            answers.gather(path, stream)
        assert caught.value.code == "runtime-broken"


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (400, "request (549 tokens) exceeds the available context size (512 tokens)", "prompt-too-long"),
        (400, "This model's maximum context length is 4096 tokens.", "prompt-too-long"),
        (400, "prompt is too long: 208310 tokens > 200000 maximum", "prompt-too-long"),
        (413, "Prompt is too long", "prompt-too-long"),
        (400, "the list of tools is too long", "request-refused"),
        (429, "This model's maximum context length is used by others.", "runtime-crowded"),
    ],
)
def test_what_is_too_long_for_a_model_is_known_by_its_words(status: int, words: str, code: str) -> None:
    error = refusals.explain(status, json.dumps({"error": {"message": words}}))
    assert error.code == code
    assert error.detail == (words if words.endswith(".") else f"{words}.")
