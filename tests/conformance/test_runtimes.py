"""What every runtime does, whichever engine is behind it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes.contract import STREAMED, Ask
from support.fix_runtimes import CHAT, CONTEXT, RUNTIMES, StartRuntime, eventually_true, saying

LONG = " ".join(["word"] * 60)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": saying("the tide comes in", max_tokens=3),
    "/v1/completions": {"prompt": "the tide comes in", "max_tokens": 3, "temperature": 0},
    "/v1/responses": {"input": "the tide comes in", "max_output_tokens": 3, "temperature": 0},
    "/v1/messages": saying("the tide comes in", max_tokens=3),
}
every_kind = pytest.mark.parametrize("kind", RUNTIMES)


def said(path: str, answer: dict[str, Any]) -> str:
    """The text of an answer."""
    if path == "/v1/responses":
        return str(answer["output"][-1]["content"][0]["text"])
    if path == "/v1/messages":
        return str(answer["content"][0]["text"])
    choice = answer["choices"][0]
    return str(choice["text"] if path == "/v1/completions" else choice["message"]["content"])


@every_kind
@pytest.mark.parametrize("path", STREAMED)
async def test_each_api_is_streamed_in_whole_events(
    start_runtime: StartRuntime, kind: str, path: str
) -> None:
    running = await start_runtime(kind)
    assert Skill.GENERATE in running.facts.skills
    async with running.runtime.generate(Ask(path, BODIES[path])) as stream:
        events = [event async for event in stream]
    assert len(events) > 4
    for event in events:
        assert event.endswith(b"\n\n")
        assert event.strip().count(b"\n\n") == 0
        data = event.partition(b"data: ")[2].strip()
        assert data == b"[DONE]" or isinstance(json.loads(data), dict)
    text = said(path, await running.ask(BODIES[path], path))
    assert len(text.split()) == 3
    assert text == said(path, await running.ask(BODIES[path], path))


@every_kind
async def test_who_asks_for_no_stream_is_told_what_it_took(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind)
    usage = (await running.ask(saying("hello", max_tokens=3, stream=False)))["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > 0
    assert "usage" not in await running.ask(saying("hello", max_tokens=3, stream=True))


@every_kind
async def test_leaving_in_the_middle_makes_room(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind, parallel=1)
    async with running.runtime.generate(Ask(CHAT, saying(LONG))) as stream:
        await anext(stream)
    assert await running.ask(saying("hello", max_tokens=2))
    if running.engine is not None:

        async def is_free() -> bool:
            return await running.busy_slots() == 0

        await eventually_true(is_free, "no slot works for somebody who has left")


@every_kind
async def test_a_caller_that_is_cancelled_makes_room(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind, parallel=1)
    asking = [asyncio.create_task(running.ask(saying(LONG))) for _ in range(4)]
    await asyncio.sleep(0)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    assert await running.ask(saying("hello", max_tokens=2))


@every_kind
async def test_many_at_once_are_told_what_each_alone_is_told(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind, parallel=4)
    bodies = [saying(f"question {number} of many", max_tokens=4) for number in range(6)]
    alone = [said(CHAT, await running.ask(body)) for body in bodies]
    together = await asyncio.gather(*(running.ask(body) for body in bodies * 4))
    assert [said(CHAT, answer) for answer in together] == alone * 4


@every_kind
async def test_a_full_queue_is_said_at_once(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind, parallel=1, waiting=1)
    async with running.runtime.generate(Ask(CHAT, saying(LONG))) as stream:
        await anext(stream)
        waiting = asyncio.create_task(running.ask(saying("second", max_tokens=2)))
        await asyncio.sleep(0)
        with pytest.raises(LinkError) as caught:
            await running.ask(saying("third", max_tokens=2))
        assert caught.value.code == "runtime-crowded"
        assert not waiting.done()
    assert await waiting


@every_kind
@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {}),
        (CHAT, {"messages": "hello"}),
        (CHAT, saying("hello", max_tokens=-3)),
        ("/v1/completions", {"max_tokens": 3}),
        ("/v1/responses", {"input": [5]}),
        ("/v1/slots", {"prompt": "a"}),
    ],
    ids=["empty", "no list", "number", "no prompt", "no input", "path"],
)
async def test_a_bad_request_is_the_callers_to_mend(
    start_runtime: StartRuntime, kind: str, path: str, body: dict[str, Any]
) -> None:
    running = await start_runtime(kind)
    with pytest.raises(DataError) as caught:
        await running.ask(body, path)
    assert caught.value.code == "request-refused"
    assert await running.ask(saying("hello", max_tokens=2))


@every_kind
async def test_a_prompt_beyond_the_context_is_refused(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind)
    long = "a " * 2 * CONTEXT
    others = {"/v1/completions": {"prompt": long}, "/v1/responses": {"input": long}}
    for path in STREAMED:
        body = others.get(path, saying(long, max_tokens=2))
        with pytest.raises(DataError) as caught:
            await running.ask(body, path)
        assert caught.value.code == "prompt-too-long"


@every_kind
async def test_what_has_ended_is_broken(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind)
    waiting = asyncio.create_task(running.runtime.ended())
    await running.runtime.stop()
    await running.runtime.stop()
    assert await waiting
    with pytest.raises(LinkError) as caught:
        await running.ask(saying("hello"))
    assert caught.value.code == "runtime-broken"


@every_kind
async def test_stopping_breaks_off_what_is_under_way(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind)
    async with running.runtime.generate(Ask(CHAT, saying(LONG))) as stream:
        await anext(stream)
        await running.runtime.stop()
        with pytest.raises(LinkError) as caught:
            _ = [event async for event in stream]
    assert caught.value.code == "runtime-broken"


@every_kind
async def test_vectors_have_length_one_and_the_order_of_their_texts(
    start_runtime: StartRuntime, kind: str
) -> None:
    running = await start_runtime(kind, skill=Skill.EMBED)
    texts = [f"text {number} " + "word " * (number % 7) for number in range(40)]
    found = await running.runtime.embed(texts)
    assert found.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)
    assert found.tokens >= 80
    alone = await running.runtime.embed([texts[33]])
    assert np.allclose(found.vectors[33], alone.vectors[0], atol=1e-4)
    assert running.facts.dimensions in (None, found.vectors.shape[1])
    for bad in ([], [""], ["a", ""]):
        with pytest.raises(DataError):
            await running.runtime.embed(bad)


@every_kind
async def test_what_it_is_not_made_for_is_refused(start_runtime: StartRuntime, kind: str) -> None:
    running = await start_runtime(kind)
    tensors = {"a": np.arange(3)}
    if kind in ("echo", "peer"):
        assert np.array_equal((await running.runtime.infer(tensors, ["a"]))["a"], tensors["a"])
        return
    for asking in (running.runtime.infer(tensors), running.runtime.embed(["a"])):
        with pytest.raises(AtollError) as caught:
            await asking
        assert caught.value.code == "skill-missing"
