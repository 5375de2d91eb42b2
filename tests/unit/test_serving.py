"""Callers get the model that they name: loaded once, swapped under way, never more than there is room for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes.contract import Ask, Facts
from atoll.runtimes.echo import EchoRuntime
from atoll.serving import asking
from atoll.serving.berth import WAITING_MAX, Wanted
from atoll.serving.decide import State
from atoll.serving.service import Serving

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "hello there dear reader"}]}
MEMORY_MAX = 1000


class Weighty(EchoRuntime):
    """Says what it is to weigh."""

    def __init__(self, memory: int, **echo: Any) -> None:
        super().__init__(**echo)
        self._memory = memory

    async def start(self) -> Facts:
        return replace(await super().start(), memory_bytes=self._memory)


class Harbour:
    """A serving that runs, and every runtime that it has opened."""

    def __init__(self, **bounds: Any) -> None:
        self.serving = Serving(MEMORY_MAX, **bounds)
        self.opened: list[EchoRuntime] = []

    def wanted(
        self, version: str = "1", memory: int = 100, is_kept: bool = False, options: Any = None, **echo: Any
    ) -> Wanted:
        def open_one() -> EchoRuntime:
            self.opened.append(Weighty(memory, name=version, **echo))
            return self.opened[-1]

        said = Facts(frozenset(Skill), memory)
        return Wanted("echo", version, "f16", options or {}, said, is_kept, open_one)

    async def say(self) -> bytes:
        async with asking.generate(self.serving, "echo", CHAT, HELLO) as events:
            return b"".join([event async for event in events])

    async def until(self, state: State) -> None:
        async with asyncio.timeout(30):
            while [word.state for word in self.serving.models()] != [state]:
                await asyncio.sleep(0.01)


@pytest.fixture
async def harbour() -> AsyncIterator[Harbour]:
    made = Harbour()
    running = asyncio.create_task(made.serving.run())
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_many_who_ask_at_once_share_one_that_is_loaded_for_the_first(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted()])
    assert harbour.serving.models()[0].state is State.EMPTY
    said = await asyncio.gather(*(harbour.say() for _ in range(20)))
    assert all(b"reader" in one for one in said)
    assert len(harbour.opened) == 1


class Slow(EchoRuntime):
    """Takes its time to load."""

    async def start(self) -> Facts:
        await asyncio.sleep(0.3)
        return await super().start()


async def test_one_more_than_may_wait_for_its_loading_is_told_to_come_back(harbour: Harbour) -> None:
    await harbour.serving.desire([replace(harbour.wanted(), open=Slow)])
    callers = [asyncio.create_task(harbour.say()) for _ in range(WAITING_MAX)]
    while harbour.serving.models()[0].asking < WAITING_MAX:
        await asyncio.sleep(0)
    with pytest.raises(LinkError, match="to be loaded") as refused:
        await harbour.say()
    assert refused.value.code == "runtime-crowded"
    assert all(b"reader" in said for said in await asyncio.gather(*callers))
    assert harbour.serving.models()[0].asking == 0


async def test_to_be_kept_loads_nothing_anew_and_other_options_do(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted()])
    await harbour.say()
    await harbour.serving.desire([harbour.wanted(is_kept=True)])
    await harbour.say()
    assert len(harbour.opened) == 1
    await harbour.serving.desire([harbour.wanted(options={"context_tokens": 512})])
    while len(harbour.opened) < 2:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await harbour.opened[0].ended()
    assert b"reader" in await harbour.say()


async def test_a_next_version_takes_over_and_who_was_under_way_is_answered_by_the_one_before(
    harbour: Harbour,
) -> None:
    await harbour.serving.desire([harbour.wanted("1")])
    await harbour.say()
    async with harbour.serving.use("echo") as before:
        await harbour.serving.desire([harbour.wanted("2")])
        while len(harbour.opened) < 2 or b'"2"' not in await harbour.say():
            await asyncio.sleep(0.01)
        async with before.generate(Ask(CHAT, HELLO)) as events:
            assert b"reader" in b"".join([event async for event in events])
        assert before is harbour.opened[0]
    async with asyncio.timeout(30):
        await harbour.opened[0].ended()
    assert b'"2"' in await harbour.say()


async def test_where_both_versions_do_not_fit_requests_wait_for_the_next_and_none_is_dropped(
    harbour: Harbour,
) -> None:
    await harbour.serving.desire([harbour.wanted("1", memory=900, event_seconds=0.02)])
    await harbour.say()
    callers = [asyncio.create_task(harbour.say()) for _ in range(8)]
    await asyncio.sleep(0)
    await harbour.serving.desire([harbour.wanted("2", memory=900)])
    said = await asyncio.gather(*callers)
    assert all(b"reader" in one for one in said)
    assert b'"2"' in await harbour.say()


async def test_an_engine_that_broke_is_started_again_and_what_had_not_begun_is_asked_once_more(
    harbour: Harbour,
) -> None:
    await harbour.serving.desire([harbour.wanted()])
    await harbour.say()
    harbour.opened[0].end("it crashed")
    assert b"reader" in await harbour.say()
    assert len(harbour.opened) == 2


class Upset(EchoRuntime):
    """Fails at what it is asked and stays, as an upstream does."""

    asked = 0

    def _check_alive(self) -> None:
        self.asked += 1
        raise LinkError("runtime-broken", "could not answer: the engine failed")


async def test_an_engine_that_failed_and_is_still_there_is_not_asked_twice(
    harbour: Harbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "NOTICE_SECONDS_MAX", 0.1)
    upset = Upset()
    await harbour.serving.desire([replace(harbour.wanted(), open=lambda: upset)])
    with pytest.raises(LinkError, match="the engine failed"):
        await harbour.say()
    assert upset.asked == 1
    with pytest.raises(LinkError, match="the engine failed"):
        await asking.embed(harbour.serving, "echo", ["hello"])
    assert upset.asked == 2


async def test_after_the_first_word_an_answer_ends_with_the_error_and_is_not_begun_again(
    harbour: Harbour,
) -> None:
    await harbour.serving.desire([harbour.wanted(fails_at_event=2)])
    async with asking.generate(harbour.serving, "echo", CHAT, HELLO) as events:
        with pytest.raises(LinkError, match="the engine is away"):
            async for _ in events:
                pass


async def test_what_could_never_fit_is_refused_at_once(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted(memory=MEMORY_MAX + 1)])
    with pytest.raises(ConfigError, match="cannot load model"):
        await harbour.say()
    assert harbour.opened == []
    await harbour.serving.desire([harbour.wanted("2")])
    assert b"reader" in await harbour.say()


class Unusable(EchoRuntime):
    async def start(self) -> Facts:
        raise DataError("model-unusable", "cannot use the model file")


async def test_a_version_that_cannot_be_loaded_leaves_the_one_before_in_its_place(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted("1")])
    await harbour.say()
    await harbour.serving.desire([replace(harbour.wanted("2"), open=Unusable)])
    while harbour.serving.models()[0].problem is None:
        await asyncio.sleep(0.01)
    assert b'"1"' in await harbour.say()
    assert harbour.serving.models()[0].problem == "cannot use the model file"


async def test_what_is_not_wanted_any_more_is_unloaded_and_unknown(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted()])
    await harbour.say()
    await harbour.serving.desire([])
    async with asyncio.timeout(30):
        await harbour.opened[0].ended()
    with pytest.raises(DataError, match="no model"):
        await harbour.say()


async def test_who_waits_for_room_gets_it_when_the_model_that_has_it_has_answered(harbour: Harbour) -> None:
    other = replace(harbour.wanted(memory=700), model="other")
    await harbour.serving.desire([harbour.wanted(memory=700), other])
    async with harbour.serving.use("echo"):
        waiting = asyncio.create_task(_use(harbour, "other"))
        while harbour.serving.word("other").asking == 0:  # type: ignore[union-attr]
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert not waiting.done()
    async with asyncio.timeout(10):
        await waiting
    assert [word.state for word in harbour.serving.models()] == [State.EMPTY, State.READY]


async def test_what_is_not_wanted_any_more_is_unloaded_once_it_has_answered(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted()])
    async with harbour.serving.use("echo"):
        await harbour.serving.desire([])
        await asyncio.sleep(0.1)
        assert harbour.serving.taken_bytes()
    async with asyncio.timeout(10):
        await harbour.opened[0].ended()


async def test_a_model_that_answered_for_longer_than_it_may_rest_rests_before_it_goes() -> None:
    harbour = Harbour(idle_seconds_max=0.2)
    running = asyncio.create_task(harbour.serving.run())
    await harbour.serving.desire([harbour.wanted()])
    async with harbour.serving.use("echo"):
        await asyncio.sleep(0.5)
        assert harbour.serving.taken_bytes()
    async with asyncio.timeout(10):
        await harbour.opened[0].ended()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def _use(harbour: Harbour, model: str) -> None:
    async with harbour.serving.use(model):
        pass


async def test_who_asks_for_a_name_that_there_is_not_is_told_the_nearest(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted()])
    with pytest.raises(AtollError) as refused:
        harbour.serving.use("ecoh")
    assert refused.value.hint == 'Did you mean "echo"?'


async def test_callers_who_leave_while_it_loads_or_answers_leave_nothing_behind(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted(at_once=2, waiting=64, event_seconds=0.01)])
    callers = [asyncio.create_task(harbour.say()) for _ in range(30)]
    for number, caller in enumerate(callers):
        await asyncio.sleep(0.002)
        if number % 3:
            caller.cancel()
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert sum(isinstance(one, bytes) for one in found) == 10
    assert harbour.serving.models()[0].asking == 0


async def test_a_new_adapter_is_waited_for_and_an_unknown_one_is_not(harbour: Harbour) -> None:
    await harbour.serving.desire([harbour.wanted()])
    await harbour.say()
    loading, go_on = asyncio.Event(), asyncio.Event()

    class Held(EchoRuntime):
        async def start(self) -> Facts:
            loading.set()
            await go_on.wait()
            return await super().start()

    await harbour.serving.desire([replace(harbour.wanted(), open=Held, adapters={"reef": "1"})])
    await loading.wait()
    with pytest.raises(DataError) as unknown:
        harbour.serving.use("echo", adapter="reeff")
    assert (unknown.value.code, unknown.value.hint) == ("model-unknown", "There are: echo:reef.")
    assert b"reader" in await harbour.say(), "the engine without it answers who does not ask for it"

    async def ask() -> str:
        async with harbour.serving.use("echo", adapter="reef") as runtime:
            return type(runtime).__name__

    waiting = asyncio.create_task(ask())
    await asyncio.sleep(0)
    go_on.set()
    assert await waiting == "Held"


async def test_an_adapter_whose_engine_does_not_load_is_refused_and_its_model_goes_on(
    harbour: Harbour,
) -> None:
    await harbour.serving.desire([harbour.wanted()])
    await harbour.say()

    class Spoilt(EchoRuntime):
        async def start(self) -> Facts:
            raise DataError("model-unusable", "cannot load the model")

    await harbour.serving.desire([replace(harbour.wanted(), open=Spoilt, adapters={"reef": "1"})])
    with pytest.raises(DataError, match="cannot load"):
        async with harbour.serving.use("echo", adapter="reef"):
            pass
    assert b"reader" in await harbour.say()
