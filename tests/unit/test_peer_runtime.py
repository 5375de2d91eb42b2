"""A peer's model over the link: what comes through, what is refused, and what is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.link.greeting import Purpose
from atoll.link.stream import Pipe
from atoll.runtimes.contract import Ask
from atoll.runtimes.echo import EchoRuntime
from atoll.runtimes.peer import messages, pool
from atoll.runtimes.peer.messages import Channel, Kind, encode, encode_head
from atoll.runtimes.room import Room
from atoll.serving import answering
from support.fix_link import FAST, Shore, eventually
from support.fix_peers import MakeStrand, an_offer

CHAT = "/v1/chat/completions"


def saying(text: str, **more: Any) -> Ask:
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **more}
    return Ask(CHAT, body)


async def said(runtime: Any, ask: Ask) -> list[bytes]:
    async with runtime.generate(ask) as events:
        return [event async for event in events]


async def read(events: AsyncIterator[bytes], heard: list[bytes]) -> None:
    async for event in events:
        heard.append(event)


class Firehose(EchoRuntime):
    """Says large events for as long as somebody takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.given = 0

    @asynccontextmanager
    async def generate(self, ask: Ask) -> AsyncIterator[AsyncIterator[bytes]]:
        async def flow() -> AsyncIterator[bytes]:
            while True:
                self.given += 1
                yield b"data: " + b"x" * 100_000 + b"\n\n"
                await asyncio.sleep(0)

        yield flow()


@pytest.mark.parametrize("both_dial", [True, False])
async def test_events_arrive_as_the_engine_made_them_on_a_stream_that_is_kept(
    make_strand: MakeStrand, both_dial: bool
) -> None:
    echo = EchoRuntime()
    strand = await make_strand(echo, both_dial=both_dial)
    asked = saying("the tide comes in twice a day")
    for _ in range(3):
        assert await said(strand.runtime(), asked) == await said(echo, asked)
    assert strand.asker.report()[0].streams_opened == 1
    assert strand.pool.idle == 1


async def test_vectors_and_arrays_arrive_bit_by_bit(make_strand: MakeStrand) -> None:
    echo = EchoRuntime()
    strand = await make_strand(echo)
    runtime = strand.runtime()
    there, here = await runtime.embed(["low", "high water"]), await echo.embed(["low", "high water"])
    assert there.tokens == here.tokens
    assert np.array_equal(there.vectors, here.vectors)
    texts = np.array(["é".encode(), b""], object)
    inputs = {
        "large": np.random.default_rng(1).random((1200, 1200), np.float32),
        "none": np.zeros((0, 3), np.int64),
        "one": np.array(True),
        "texts": texts,
    }
    found = await runtime.infer(inputs)
    for name, array in inputs.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    assert list(await runtime.infer(inputs, ["one"])) == ["one"]
    with pytest.raises(DataError, match="it has no output"):
        await runtime.infer(inputs, ["two"])
    assert strand.asker.report()[0].streams_opened == 1


async def test_errors_come_as_the_peer_says_them_and_with_when_to_ask_again(make_strand: MakeStrand) -> None:
    class Busy(EchoRuntime):
        async def embed(self, texts: Any) -> Any:
            error = LinkError("runtime-crowded", "could not take it", detail="Full.", hint="Wait.")
            error.retry_after_seconds = 7.0
            raise error

    strand = await make_strand(Busy(fails_at_event=3))
    with pytest.raises(LinkError) as caught:
        await strand.runtime().embed(["text"])
    assert (caught.value.code, caught.value.detail, caught.value.hint) == (
        "runtime-crowded",
        "Full.",
        "Wait.",
    )
    assert caught.value.retry_after_seconds == 7.0
    with pytest.raises(DataError) as refused:
        await said(strand.runtime(), saying("word", max_tokens=0))
    assert refused.value.code == "request-refused"
    heard: list[bytes] = []
    async with strand.runtime().generate(saying("one two three four")) as events:
        with pytest.raises(LinkError) as broke:
            await read(events, heard)
    assert broke.value.code == "runtime-broken"
    assert len(heard) == 3
    assert strand.asker.report()[0].streams_opened == 1, "an error ends the request, not the stream"


@pytest.mark.parametrize(
    ("scopes", "code"),
    [
        ({"global"}, None),
        ({"region:eu"}, None),
        ({"node:2", "global", "region:eu"}, None),
        ({"local"}, "scope-forbids"),
        ({"node:1"}, "scope-forbids"),
        ({"global", "region:us"}, "scope-forbids"),
        ({""}, "scope-forbids"),
    ],
)
async def test_what_may_not_be_there_is_refused_there(
    make_strand: MakeStrand, scopes: set[str], code: str | None
) -> None:
    strand = await make_strand(EchoRuntime())
    asks = [
        said(strand.runtime(), replace(saying("x"), scopes=frozenset(scopes))),
        strand.runtime(scopes=frozenset(scopes)).embed(["x"]),
        strand.runtime(scopes=frozenset(scopes)).infer({"x": np.zeros(1)}),
    ]
    for ask in asks:
        if code is None:
            await ask
            continue
        with pytest.raises(PolicyDenied) as caught:
            await ask
        assert caught.value.code == code


async def test_an_upstream_is_asked_only_with_what_may_be_where_it_is(make_strand: MakeStrand) -> None:
    far = an_offer(is_upstream=True, region="us", price=(1.0, 2.0))
    strand = await make_strand(EchoRuntime(), offers={"talk": far})
    assert await said(strand.runtime(), replace(saying("x"), scopes=frozenset({"global"})))
    for scope in ("region:us", "region:eu", "node:2"):
        with pytest.raises(PolicyDenied):
            await said(strand.runtime(), replace(saying("x"), scopes=frozenset({scope})))


async def test_what_is_not_offered_was_passed_on_or_comes_late_is_not_answered(
    make_strand: MakeStrand,
) -> None:
    strand = await make_strand(EchoRuntime(event_seconds=0.2))
    with pytest.raises(LinkError) as gone:
        await said(strand.runtime("secret"), saying("x"))
    assert gone.value.code == "runtime-broken"
    assert "secret" in str(gone.value.detail)
    with pytest.raises(PolicyDenied) as passed:
        await said(strand.runtime(), replace(saying("x"), hops=1))
    assert passed.value.code == "ask-passed-on"
    late = replace(saying("one two three four five"), deadline_seconds=0.3)
    with pytest.raises(LinkError) as caught:
        await said(strand.runtime(), late)
    assert caught.value.code == "deadline-passed"
    await eventually(lambda: strand.asking() == 0)


HEADS: list[dict[str, Any]] = [
    {},
    {"do": "drop"},
    {"do": "generate", "model": 7},
    {"do": "generate", "model": "talk", "scopes": "global", "hops": 0},
    {"do": "generate", "model": "talk", "scopes": [], "hops": True},
    {"do": "generate", "model": "talk", "scopes": [1], "hops": 0},
    {"do": "generate", "model": "talk", "scopes": [], "hops": 0, "deadline_seconds": "soon"},
    {"do": "generate", "model": "talk", "scopes": [], "hops": 0, "path": "/x" * 200},
    {"do": "infer", "model": "talk", "scopes": [], "hops": 0, "arrays": [{"name": "x"}]},
    {
        "do": "infer",
        "model": "talk",
        "scopes": [],
        "hops": 0,
        "arrays": [{"name": "x", "datatype": "FP32", "shape": [2**40], "bytes": 4}],
    },
    {
        "do": "infer",
        "model": "talk",
        "scopes": [],
        "hops": 0,
        "arrays": [{"name": "x", "datatype": "FP32", "shape": [1], "bytes": 8}],
    },
]


async def test_nonsense_is_refused_and_the_stream_goes_on(make_strand: MakeStrand) -> None:
    strand = await make_strand(EchoRuntime())
    channel = Channel(await strand.asker.open_stream(2, Purpose.MODEL))
    for head in HEADS:
        await channel.write(encode_head(head), encode(Kind.PIECE, b"[]"), encode(Kind.DONE))
        found = await channel.next()
        assert found is not None
        assert found[0] is Kind.DONE, head
        assert json.loads(found[1])["family"] == "DataError", head
    await channel.write(encode(Kind.EVENT, b"what?"))
    with pytest.raises(AtollError) as caught:
        await channel.next()
    assert caught.value.code == "protocol"
    raw = Pipe(await strand.asker.open_stream(2, Purpose.MODEL))
    await raw.write(b"\x01\xff\xff\xff" + b"x" * 10)
    with pytest.raises(LinkError, match="16777215 bytes"):
        await raw.read()


async def test_what_is_too_much_is_read_to_its_end_and_refused(
    make_strand: MakeStrand, monkeypatch: pytest.MonkeyPatch
) -> None:
    strand = await make_strand(EchoRuntime())
    much, little = {"x": np.zeros(300_000)}, {"x": np.zeros(3)}
    strand.answering._room = Room(1_000_000)
    with pytest.raises(LinkError) as crowded:
        await strand.runtime().infer(much)
    assert crowded.value.code == "runtime-crowded"
    monkeypatch.setattr(answering, "BODY_BYTES_MAX", 1_000_000)
    with pytest.raises(DataError) as large:
        await strand.runtime().infer(much)
    assert large.value.code == "request-too-large"
    assert await strand.runtime().infer(little)
    assert strand.asker.report()[0].streams_opened == 1


async def test_a_node_from_before_refuses_the_question_and_keeps_its_link(
    shore: Shore, make_strand: MakeStrand
) -> None:
    for both_dial in (True, False):
        strand = await make_strand(EchoRuntime(), both_dial=both_dial)
        strand.answerer._openings._serve.clear()
        with pytest.raises(LinkError) as caught:
            await said(strand.runtime(), saying("x"))
        assert caught.value.code == "runtime-broken"
        assert strand.asker.report()[0].state == "up"


async def test_who_leaves_frees_the_engine_and_the_stream_is_used_again(make_strand: MakeStrand) -> None:
    strand = await make_strand(EchoRuntime(event_seconds=0.05, at_once=1))
    async with strand.runtime().generate(saying("word " * 3000)) as events:
        await anext(events)
        assert strand.asking() == 1
    await eventually(lambda: strand.asking() == 0)
    await eventually(lambda: strand.pool.idle == 1)
    assert await said(strand.runtime(), saying("again"))
    assert strand.asker.report()[0].streams_opened == 1


async def test_fifty_askers_that_hang_up_leave_nothing_behind(make_strand: MakeStrand) -> None:
    strand = await make_strand(EchoRuntime(event_seconds=0.02, at_once=4))
    assert await said(strand.runtime(), saying("loaded by now"))
    tasks_before = len(asyncio.all_tasks())

    async def ask_and_leave(number: int) -> None:
        """Before the first word, in the middle of the words, and all at once."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01 * (number % 25)):
                await said(strand.runtime(), saying("word " * 3000))

    await asyncio.gather(*(ask_and_leave(number) for number in range(50)))
    await eventually(lambda: strand.asking() == 0)
    await eventually(lambda: strand.asker.report()[0].streams == strand.pool.idle <= pool.IDLE_MAX)
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks_before + pool.IDLE_MAX, "ending of tasks")
    assert await said(strand.runtime(), saying("still there"))


async def test_a_slow_reader_holds_the_engine_back(make_strand: MakeStrand) -> None:
    firehose = Firehose()
    strand = await make_strand(firehose, settings=replace(FAST, compression="off"))
    async with strand.runtime().generate(saying("x")) as events:
        await anext(events)
        seen = -1
        while seen != firehose.given:
            seen = firehose.given
            await asyncio.sleep(0.3)
        assert firehose.given < 200, "20 MB of events are on their way, and nobody reads them"
        for _ in range(300):
            assert len(await anext(events)) == 100_008
        assert firehose.given > seen
    await eventually(lambda: strand.asking() == 0)


async def test_a_stream_that_ended_while_it_was_kept_is_replaced(make_strand: MakeStrand) -> None:
    strand = await make_strand(EchoRuntime())
    assert await said(strand.runtime(), saying("one"))
    for stream in list(strand.answerer._slots[1]._streams):
        stream.close(LinkError("idle", "closed by the peer"))
    assert await said(strand.runtime(), saying("two"))
    assert strand.asker.report()[0].streams_opened == 2


async def test_without_a_link_the_answer_is_a_broken_engine_and_comes_at_once(
    make_strand: MakeStrand,
) -> None:
    strand = await make_strand(EchoRuntime(event_seconds=0.05))
    async with strand.runtime().generate(saying("word " * 3000)) as events:
        await anext(events)
        await strand.answerer.stop()
        with pytest.raises(LinkError) as caught:
            await read(events, [])
    assert caught.value.code == "runtime-broken"
    await eventually(lambda: strand.asker.report()[0].state != "up")
    with pytest.raises(LinkError) as after:
        await said(strand.runtime(), saying("x"))
    assert after.value.code == "runtime-broken"


def test_pieces_are_bounded() -> None:
    body = bytes(3 * messages.PIECE_BYTES + 5)
    cut = list(messages.pieces(body))
    assert [len(one) - 4 for one in cut] == [messages.PIECE_BYTES] * 3 + [5]
    with pytest.raises(LinkError):
        encode(Kind.EVENT, bytes(messages.BYTES_MAX + 1))
