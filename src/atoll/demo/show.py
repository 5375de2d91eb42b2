"""The demo as it is played: the scenario's steps, done on the stage, watched and shown.

What happens is in scenario.py, where in stage.py, how it looks in picture.py; here they come together.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable

import psycopg

from atoll.demo import words
from atoll.demo.gap import Gap, Mark, Way, mark, measure
from atoll.demo.ledger import Account
from atoll.demo.outcome import CutFacts, Outcome, choose_sample, tell_conflict
from atoll.demo.proof import prove
from atoll.demo.scenario import (
    ACTS,
    AWAY,
    BUILD,
    CALM,
    CUT,
    FOUNDER,
    HEALED,
    PRICES,
    PROOF,
    SITES,
    START_QTY,
    STEPS,
    Pace,
    Step,
    tell_act,
)
from atoll.demo.screen import Screen
from atoll.demo.stage import Stage
from atoll.demo.traffic import Application
from atoll.demo.view import Told, View, view_roads, view_sites
from atoll.demo.watch import Lookout, Seen
from atoll.domain.errors import DataError
from atoll.sql import query

LOOK_EVERY_SECONDS = 0.2
STORY_KEPT = 200
HISTORY_KEPT = 600


class Show:
    def __init__(self, stage: Stage, pace: Pace, screen: Screen) -> None:
        self._stage = stage
        self._pace = pace
        self._screen = screen
        self._began = time.monotonic()
        self._step: Step = BUILD
        self._text = BUILD.text
        self._story: deque[Told] = deque(maxlen=STORY_KEPT)
        self._waiting: deque[int] = deque(maxlen=HISTORY_KEPT)
        self._up: set[str] = set()
        self._cut_off: str | None = None
        self._applications: dict[str, Application] = {}
        self._lookouts: dict[str, Lookout] = {}
        self._gaps: dict[Way, Gap] = {}

    # What there is to see

    @property
    def _accounts(self) -> dict[str, Account]:
        return {name: application.account for name, application in self._applications.items()}

    @property
    def _seen(self) -> dict[str, Seen]:
        return {name: lookout.seen for name, lookout in self._lookouts.items()}

    def view(self) -> View:
        now = time.monotonic()
        accounts, seen = self._accounts, self._seen
        first = seen.get(FOUNDER, Seen())
        return View(
            seconds=now - self._began,
            step=STEPS.index(self._step),
            text=self._text,
            sites=view_sites(accounts, seen, sorted(self._up), now),
            roads=view_roads(self._gaps, self._cut_off),
            conflicts=first.conflicts,
            conflict_count=first.conflict_count,
            story=tuple(self._story),
            waiting_before=tuple(self._waiting),
        )

    def _tell(self, text: str, *, is_headline: bool = True) -> None:
        self._story.append(Told(time.monotonic() - self._began, text))
        if is_headline:
            self._text = text
        self._screen.show(self.view())

    def _begin(self, step: Step) -> None:
        self._step = step
        self._tell(step.text)

    # The play

    async def play(self) -> Outcome:
        """From an empty stage to the proof."""
        async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as helpers:
            tasks = [helpers.create_task(self._paint())]
            await self._build(stack)
            tasks += [helpers.create_task(self._look(name)) for name in self._lookouts]
            tasks.append(helpers.create_task(self._stage.watch()))
            outcome = await self._write_and_cut(helpers)
            for task in tasks:
                task.cancel()
        return outcome

    async def _build(self, stack: contextlib.AsyncExitStack) -> None:
        def say(site: str, what: str) -> None:
            if what.endswith("up") or "invites" in what:
                self._up.add(site)
            self._tell(f"{site.capitalize()} {what}.", is_headline=False)

        try:
            async with asyncio.timeout(self._pace.build_seconds_max):
                await self._stage.build(say)
                await self._open_lookouts(stack)
                await self._until(lambda lookout: lookout.mesh_stands(len(SITES) - 1))
                self._tell("Every node has a link to every other one.", is_headline=False)
                await self._make_tables()
                await self._until(lambda lookout: lookout.has_all(len(PRICES)))
                self._tell("Tables shared on Lisbon are on all three.", is_headline=False)
        except TimeoutError:
            raise DataError(
                "demo-not-built",
                f"the nodes were not ready within {self._pace.build_seconds_max:.0f} s",
                hint="Look at their logs: atoll demo --home DIR, then atoll logs --home DIR/lisbon",
            ) from None

    async def _open_lookouts(self, stack: contextlib.AsyncExitStack) -> None:
        for name, place in self._stage.places.items():
            dsn = place.dsn(is_admin=True)
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            self._lookouts[name] = Lookout(await stack.enter_async_context(connection))

    async def _until(self, is_true: Callable[[Lookout], Awaitable[bool]]) -> None:
        for lookout in self._lookouts.values():
            while not await is_true(lookout):
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _make_tables(self) -> None:
        dsn = self._stage.places[FOUNDER].dsn()
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            for name in ("make_tables", "share_stock", "share_orders", "share_readings"):
                await connection.execute(query("demo", name))
            for item, price in PRICES.items():
                await connection.execute(query("demo", "add_item"), (item, START_QTY, price))

    async def _write_and_cut(self, helpers: asyncio.TaskGroup) -> Outcome:
        pace = self._pace
        for number, site in enumerate(SITES):
            dsn, rng = self._stage.places[site.name].dsn(), random.Random(pace.seed + number)  # noqa: S311
            self._applications[site.name] = Application(site.name, dsn, pace.writes_per_second, rng)
        writing = [helpers.create_task(one.run()) for one in self._applications.values()]
        self._begin(CALM)
        await asyncio.sleep(pace.calm_seconds)
        cut = await self._cut_and_mend()
        for application in self._applications.values():
            application.stop()
        await asyncio.gather(*writing)
        return await self._prove(cut)

    async def _cut_and_mend(self) -> CutFacts:
        away = self._accounts[AWAY]
        before = {name: account.writes for name, account in self._accounts.items()}
        took_before = away.took(away.writes)
        self._cut_off = AWAY
        await self._stage.cut_off(AWAY)
        began = time.monotonic()
        self._begin(CUT)
        await self._play_acts(began)
        writes = {name: account.writes - before[name] for name, account in self._accounts.items()}
        took_cut = away.took(writes[AWAY])
        waiting, lag = self._waiting_now(), self._lag_now()
        marks = self._marks()
        await self._stage.mend()
        mended, self._cut_off = time.monotonic(), None
        self._begin(HEALED)
        converged = await self._until_seen(marks, mended)
        if converged is not None:
            took = words.duration(converged)
            self._tell(f"All that was written during the cut is everywhere, {took} after the mending.")
        await asyncio.sleep(self._pace.after_seconds)
        sample = choose_sample(self._seen[FOUNDER].conflicts)
        if sample is not None:
            self._tell(tell_conflict(sample))
            await asyncio.sleep(self._pace.conflict_seconds)
        return CutFacts(mended - began, writes, took_before, took_cut, waiting, lag, converged)

    async def _play_acts(self, began: float) -> None:
        for act in ACTS:
            due = began + act.at * self._pace.cut_seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._applications[act.site].do(act)
            self._tell(tell_act(act))
        await asyncio.sleep(max(0.0, began + self._pace.cut_seconds - time.monotonic()))

    def _marks(self) -> dict[str, Mark]:
        now = time.monotonic()
        return {name: mark(account, now) for name, account in self._accounts.items()}

    async def _until_seen(self, marks: dict[str, Mark], since: float) -> float | None:
        """Seconds until every node has what was acknowledged before; none if that takes too long."""
        while time.monotonic() - since < self._pace.converge_seconds_max:
            if all(mark.is_seen(seen, site) for seen in self._seen.values() for site, mark in marks.items()):
                return time.monotonic() - since
            await asyncio.sleep(LOOK_EVERY_SECONDS / 4)
        return None

    async def _prove(self, cut: CutFacts) -> Outcome:
        self._begin(PROOF)
        await self._until_seen(self._marks(), time.monotonic())
        home = self._stage.places[FOUNDER].home
        outcome = await prove(home, self._lookouts, self._accounts, cut)
        where = "the same on all three nodes" if outcome.has_converged else "NOT the same everywhere"
        self._tell(f"Compared: every row is {where}.")
        await asyncio.sleep(self._pace.proof_seconds)
        return outcome

    # Beside the play

    async def _paint(self) -> None:
        while True:
            self._waiting.append(self._waiting_now())
            self._screen.show(self.view())
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _look(self, name: str) -> None:
        lookout = self._lookouts[name]
        while True:
            marks = self._marks()
            try:
                await lookout.look()
            except psycopg.Error as error:
                raise DataError(
                    "demo-look-failed", f"could not look at {name}: {str(error).strip().splitlines()[0]}"
                ) from error
            self._gaps |= measure(self._accounts, marks, name, lookout.seen)
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    def _waiting_now(self) -> int:
        return sum(gap.waiting for gap in self._gaps.values())

    def _lag_now(self) -> float:
        return max((gap.lag_seconds for gap in self._gaps.values()), default=0.0)
