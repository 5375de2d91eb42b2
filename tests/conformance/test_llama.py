"""What only an engine of our own has to stand: bad files, crashes, callers with bad intent, adapters."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes.contract import Ask
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Patience, Wants
from support.fix_models import TinyModel
from support.fix_runtimes import CHAT, Running, StartLlama, eventually_true, saying

SOON = Patience(ask_every_seconds=0.05, answer_seconds=3.0)
CHANGING = ("id", "created", "created_at", "completed_at", "timings", "system_fingerprint")
SEED = 7


def is_gone(pid: int) -> bool:
    """Ended with all of its threads, whether or not somebody has asked how."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) <= 1
    except OSError:
        return True


def sockets(folder: Path) -> set[Path]:
    return set(folder.glob("*.sock"))


def steady(answer: Any) -> Any:
    """An answer without what is different each time: names, times, and what was in a cache."""
    if isinstance(answer, list):
        return [steady(entry) for entry in answer]
    if isinstance(answer, dict):
        caches = ("prompt_tokens_details", "input_tokens_details", "cache_read_input_tokens", "input_tokens")
        return {k: steady(v) for k, v in answer.items() if k not in (*CHANGING, *caches)}
    return round(answer, 3) if isinstance(answer, float) else answer


SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 5}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, saying("high water", max_tokens=6)),
        (CHAT, saying("high water", max_tokens=4, logprobs=True, top_logprobs=3)),
        (CHAT, saying("high water", max_tokens=40, stop=["ka"])),
        (CHAT, saying("x", response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})),
        ("/v1/completions", {"prompt": "high water", "max_tokens": 5, "temperature": 0}),
        ("/v1/completions", {"prompt": "high", "max_tokens": 4, "temperature": 0, "logprobs": 2}),
        ("/v1/responses", {"input": "high water", "max_output_tokens": 5, "temperature": 0}),
        ("/v1/messages", saying("high water", max_tokens=5)),
        ("/v1/messages", {**saying("high", max_tokens=40), "stop_sequences": ["ka"]}),
    ],
    ids=[
        "chat",
        "logprobs",
        "stop",
        "schema",
        "text",
        "text logprobs",
        "response",
        "message",
        "message stop",
    ],
)
async def test_a_stream_put_together_is_what_the_engine_answers_at_once(
    start_llama: StartLlama, path: str, body: dict[str, Any]
) -> None:
    running = await start_llama(parallel=1)
    at_once = await running.engine_answer("POST", path, {**body, "stream": False})
    assert steady(await running.ask(body, path)) == steady(at_once)


async def test_several_choices_are_put_together_each_for_itself(start_llama: StartLlama) -> None:
    running = await start_llama(parallel=2)
    one = await running.ask(saying("high water", max_tokens=5))
    two = await running.ask(saying("high water", max_tokens=5, n=2))
    assert [choice["index"] for choice in two["choices"]] == [0, 1]
    assert [c["message"] for c in two["choices"]] == [one["choices"][0]["message"]] * 2
    assert two["usage"]["completion_tokens"] == 2 * one["usage"]["completion_tokens"]


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
async def test_an_engine_that_dies_or_hangs_is_noticed(start_llama: StartLlama, sign: signal.Signals) -> None:
    patience = Patience(ask_every_seconds=0.05, answer_seconds=1.0) if sign is signal.SIGSTOP else SOON
    running = await start_llama(patience=patience)
    assert running.engine is not None
    pid = running.engine.pid
    assert pid is not None
    async with running.runtime.generate(Ask(CHAT, saying("hello"))) as stream:
        await anext(stream)
        os.kill(pid, sign)
        reason = await asyncio.wait_for(running.runtime.ended(), 60)
        with pytest.raises(LinkError) as caught:
            _ = [event async for event in stream]
    assert caught.value.code == "runtime-broken"
    assert ("answer" if sign is signal.SIGSTOP else sign.name) in reason
    with pytest.raises(LinkError) as caught:
        await running.ask(saying("hello"))
    assert reason in (caught.value.detail or "")
    assert is_gone(pid)
    assert not sockets(running.folder)


async def test_fifty_callers_that_leave_hold_no_slot(start_llama: StartLlama) -> None:
    running = await start_llama(parallel=4, waiting=64)
    chance = random.Random(SEED)

    async def leave(number: int, events: int) -> None:
        body = saying(f"{number} " * 20)
        async with running.runtime.generate(Ask(CHAT, body)) as stream:
            for _ in range(events):
                await anext(stream)

    await asyncio.gather(*(leave(number, chance.randint(1, 9)) for number in range(50)))

    async def is_free() -> bool:
        return await running.busy_slots() == 0

    await eventually_true(is_free, "no slot works for somebody who has left")
    assert await running.ask(saying("hello", max_tokens=2))


@pytest.mark.parametrize("damage", ["empty", "garbage", "cut", "half", "blocks", "words", "missing"])
async def test_a_bad_file_is_unusable_and_takes_nobody_down(
    start_llama: StartLlama, tiny_gguf: TinyModel, tmp_path: Path, damage: str
) -> None:
    whole = tiny_gguf.file.read_bytes()
    count = whole.index(b"llama.block_count") + len(b"llama.block_count") + 4
    bad = {
        "empty": b"",
        "garbage": b"GGUF" + random.Random(SEED).randbytes(5000),
        "cut": whole[:200],
        "half": whole[: len(whole) // 2],
        "blocks": whole[:count] + b"\xff\xff\xff\x7f" + whole[count + 4 :],
        "words": whole.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenz"),
    }
    file = tmp_path / "bad.gguf"
    if damage in bad:
        file.write_bytes(bad[damage])
    with pytest.raises(DataError) as caught:
        await start_llama(file=file)
    assert caught.value.code == "model-unusable"
    assert caught.value.detail or "bad.gguf" in caught.value.message
    running = await start_llama()
    assert await running.ask(saying("hello", max_tokens=2))


async def test_an_adapter_that_is_none_is_unusable(
    start_llama: StartLlama, tiny_gguf: TinyModel, tmp_path: Path
) -> None:
    for content in (tiny_gguf.file.read_bytes(), tiny_gguf.adapters["reef"].read_bytes()[:-64], b"no"):
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(DataError) as caught:
            await start_llama(adapters={"bad": tmp_path / "bad.gguf"})
        assert caught.value.code == "model-unusable"


def text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


async def test_each_request_has_its_adapter_and_no_other(
    start_llama: StartLlama, tiny_gguf: TinyModel
) -> None:
    """One slot and one prompt, so that whatever an adapter leaves behind would be reused."""
    running = await start_llama(parallel=1, adapters=tiny_gguf.adapters)
    assert running.facts.adapters == tuple(tiny_gguf.adapters)
    body = saying("the same question each time", max_tokens=6)
    fresh: dict[str | None, str] = {}
    for name in (None, *tiny_gguf.adapters):
        alone = await start_llama(parallel=1, adapters=tiny_gguf.adapters)
        fresh[name] = text(await alone.ask(body, adapter=name))
        await alone.runtime.stop()
    assert len(set(fresh.values())) == 3
    chance = random.Random(SEED)
    for _ in range(30):
        name = chance.choice(list(fresh))
        assert text(await running.ask(body, adapter=name)) == fresh[name], f"seed {SEED}"
        if chance.random() < 0.3:
            message = await running.ask(body, "/v1/messages")
            assert message["content"][0]["text"] == fresh[None], f"seed {SEED}"
    with pytest.raises(DataError, match="no adapter"):
        await running.ask(body, adapter="coral")
    with pytest.raises(DataError, match="this path"):
        await running.ask(body, "/v1/messages", adapter="reef")


async def test_texts_embedded_together_are_what_each_is_alone(start_llama: StartLlama) -> None:
    running = await start_llama(parallel=4, skill=Skill.EMBED, pooling="mean")
    texts = [f"{number} " + "word " * (number % 5) for number in range(12)]
    together = (await running.runtime.embed(texts)).vectors
    alone = [(await running.runtime.embed([one])).vectors[0] for one in texts]
    assert np.allclose(together, alone, atol=1e-4)
    with pytest.raises(DataError) as caught:
        await running.runtime.embed(["fits", "word " * 2000])
    assert caught.value.code == "request-refused"
    assert running.facts.dimensions == together.shape[1]


async def test_a_model_without_pooling_says_so_when_it_is_to_embed(start_llama: StartLlama) -> None:
    with pytest.raises(DataError) as caught:
        await start_llama(skill=Skill.EMBED)
    assert caught.value.code == "model-unusable"
    assert "ooling" in (caught.value.detail or "")


async def test_the_engines_process_holds_no_secret_and_goes_first(
    start_llama: StartLlama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATOLL_TEST_KEY", "very-secret")
    running = await start_llama()
    assert running.engine is not None
    process = Path(f"/proc/{running.engine.pid}")
    assert b"very-secret" not in (process / "environ").read_bytes()
    assert b"tiny.gguf" not in (process / "cmdline").read_bytes()
    assert (process / "oom_score_adj").read_text().strip() == "800"
    assert running.socket.stat().st_mode & 0o077 == 0
    assert 0 < running.facts.memory_bytes < 1 << 30
    await running.ask(saying("an unmistakable question", max_tokens=2))
    assert "unmistakable" not in (running.folder / "engine.log").read_text()


PARENT = """
import asyncio, sys
from pathlib import Path
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Wants

async def main():
    folder = Path(sys.argv[2])
    runtime = LlamaRuntime(Path(sys.argv[1]), Wants(context_tokens=256), folder=folder, log=folder / "l")
    await runtime.start()
    print(runtime.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_an_engine_ends_with_a_parent_that_is_killed(
    start_llama: StartLlama, tiny_gguf: TinyModel, socket_folder: Path
) -> None:
    command = [sys.executable, "-c", PARENT, str(tiny_gguf.file), str(socket_folder)]
    parent = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    parent.kill()
    await parent.wait()

    async def has_ended() -> bool:
        return is_gone(pid)

    await eventually_true(has_ended, "the engine ended")
    left = sockets(socket_folder)
    await start_llama()
    assert len(left) == 1
    assert not left & sockets(socket_folder)


async def test_a_socket_that_cannot_be_is_refused(tiny_gguf: TinyModel, tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    runtime = LlamaRuntime(tiny_gguf.file, Wants(), folder=folder, log=tmp_path / "log")
    with pytest.raises(ConfigError) as caught:
        await runtime.start()
    assert caught.value.code == "socket-path-too-long"


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return {"type": "json_schema", "json_schema": {"schema": schema}}


BOMBS: dict[str, dict[str, Any]] = {
    "deep schema": {"response_format": nested(500)},
    "wide schema": {"response_format": {"schema": {"enum": [str(n) for n in range(5000)]}}},
    "repeats": {"response_format": {"schema": {"type": "string", "minLength": 10**9}}},
    "pattern": {"response_format": {"schema": {"type": "string", "pattern": "((a{99}){99}){99}"}}},
    "grammar": {"grammar": 'root ::= ("a"*)*'},
    "tool": {"tools": [{"type": "function", "function": {"name": "f", "parameters": nested(40)}}]},
    "choices": {"n": 1000},
    "logprobs": {"logprobs": True, "top_logprobs": 100_000},
    "biases": {"logit_bias": {str(number): 1 for number in range(10_000)}},
    "stops": {"stop": ["a"] * 10_000},
    "not a number": {"temperature": float("nan")},
    "infinite": {"chat_template_kwargs": {"a": float("inf")}},
    "picture": {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "file:///x"}]}]},
}


async def test_what_would_harm_the_engine_does_not_reach_it(start_llama: StartLlama) -> None:
    running = await start_llama()
    for name, harm in BOMBS.items():
        with pytest.raises(DataError) as caught:
            await running.ask({**saying("hello", max_tokens=1), **harm})
        assert caught.value.code == "request-refused", name
    ours = {"lora": [{"id": 9}], "id_slot": 77, "n_predict": -1, "cache_prompt": False, "samplers": [5]}
    answer = await running.ask({**saying("hello", max_tokens=2), **ours})
    assert answer["usage"]["completion_tokens"] == 2


@pytest.mark.slow
async def test_random_bodies_never_bring_the_engine_down(start_llama: StartLlama) -> None:
    running: Running = await start_llama()
    chance = random.Random(SEED)
    strange: list[Any] = [
        None,
        True,
        -1,
        0,
        2**70,
        1.5,
        "",
        "\ud800",
        [],
        {},
        [[]],
        [5],
        {"type": 5},
        "x" * 99,
    ]
    names = [
        "messages",
        "max_tokens",
        "n",
        "stop",
        "tools",
        "tool_choice",
        "response_format",
        "seed",
        "top_k",
    ]
    names += [
        "logit_bias",
        "stream_options",
        "chat_template_kwargs",
        "reasoning_effort",
        "logprobs",
        "prompt",
    ]
    for _ in range(80):
        body = saying("hello", max_tokens=1, prompt="hello", input="hello")
        body |= {name: chance.choice(strange) for name in chance.sample(names, 2)}
        path = chance.choice([CHAT, "/v1/completions", "/v1/responses", "/v1/messages"])
        try:
            await running.ask(body, path)
        except AtollError as error:
            assert error.code == "request-refused", f"seed {SEED}: {path} {json.dumps(body)}"  # noqa: PT017
    assert await running.ask(saying("hello", max_tokens=2))
