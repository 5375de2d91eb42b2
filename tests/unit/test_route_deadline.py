"""The deadline of a routed request, and how its end is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from atoll.domain.errors import LinkError
from atoll.domain.models import Skill
from atoll.router.asked import Asked
from atoll.router.placing.chain import Settled
from atoll.router.placing.decide import Decision
from atoll.router.placing.record import DRAWN, KEPT_MAX, Records, Trip
from atoll.router.policy.route import Route


def a_trip() -> Trip:
    return Trip(Decision(Asked("ask", "", Skill.GENERATE), Route("ask", {}), (), ()))


async def until(event: asyncio.Event, trip: Trip, records: Records, seconds: float) -> None:
    async with Settled(trip, seconds, records):
        await event.wait()


async def test_who_is_late_is_told_so_and_counted_once() -> None:
    trip, records = a_trip(), Records()
    with pytest.raises(LinkError) as caught:
        await until(asyncio.Event(), trip, records, 0.01)
    assert caught.value.code == "deadline-passed"
    assert trip.end == "broken"
    assert records.answers == {("ask", "none", "broken"): 1}
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling(), "what comes after it is not cancelled"


async def test_who_goes_away_is_not_told_of_a_deadline() -> None:
    trip, records = a_trip(), Records()
    working = asyncio.create_task(until(asyncio.Event(), trip, records, 30.0))
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert trip.end == "left"


async def test_what_went_wrong_as_the_deadline_struck_is_told_as_it_is() -> None:
    trip, records = a_trip(), Records()

    async def work() -> None:
        async with Settled(trip, 0.01, records):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise LinkError("runtime-crowded", "it was full") from None

    with pytest.raises(LinkError, match="full"):
        await work()
    assert trip.end == "refused"


async def test_who_goes_as_the_deadline_strikes_has_gone() -> None:
    """Both in one turn of the loop: the cancellation of somebody else is not taken for one's own."""
    trip, records = a_trip(), Records()
    settled = Settled(trip, 30.0, records)

    async def wait() -> None:
        async with settled:
            await asyncio.Event().wait()

    working = asyncio.create_task(wait())
    await asyncio.sleep(0)
    settled._strike()
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working


async def test_an_answer_in_time_leaves_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[asyncio.TimerHandle] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def watched(seconds: float, do: Callable[[], object]) -> asyncio.TimerHandle:
        made.append(call_later(seconds, do))
        return made[-1]

    monkeypatch.setattr(loop, "call_later", watched)
    trip, records = a_trip(), Records()
    over = asyncio.Event()
    over.set()
    await until(over, trip, records, 30.0)
    assert trip.end == "answered"
    assert [timer.cancelled() for timer in made] == [True]


def test_every_decision_has_a_name_of_its_own() -> None:
    records, seen = Records(), []
    for _ in range(2 * DRAWN + 1):
        records.keep(trip := a_trip())
        seen.append(trip.id)
    assert len(set(seen)) == len(seen)
    assert {len(name) for name in seen} == {16}
    assert records.find(seen[-KEPT_MAX]) is not None
    assert records.find(seen[-KEPT_MAX - 1]) is None
