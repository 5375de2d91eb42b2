"""The demo as it is played: the scenario's steps, done on the stage, watched and shown.

What happens is in scenario.py, where in stage.py, who works there in crew.py, how it looks in picture.py;
here they come together.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

from atoll.demo import furnish, words
from atoll.demo.asking import Answer, ask
from atoll.demo.crew import LOOK_EVERY_SECONDS, Crew
from atoll.demo.outcome import CutFacts, Outcome, choose_sample, tell_answer, tell_conflict
from atoll.demo.proof import prove
from atoll.demo.scenario import (
    ACTS,
    ASK,
    AWAY,
    BUILD,
    CALM,
    CUT,
    FOUNDER,
    HEALED,
    PROOF,
    QUESTION,
    SITES,
    STEPS,
    SURELY,
    Pace,
    Step,
    tell_act,
)
from atoll.demo.screen import Screen
from atoll.demo.stage import Stage
from atoll.demo.view import Told, View, view_roads, view_sites
from atoll.demo.watch import Seen
from atoll.domain.errors import DataError

STORY_KEPT = 200
HISTORY_KEPT = 600


class Show:
    def __init__(self, stage: Stage, pace: Pace, screen: Screen) -> None:
        self._stage = stage
        self._pace = pace
        self._screen = screen
        self._crew = Crew(stage, pace)
        self._began = time.monotonic()
        self._step: Step = BUILD
        self._text = BUILD.text
        self._story: deque[Told] = deque(maxlen=STORY_KEPT)
        self._waiting: deque[int] = deque(maxlen=HISTORY_KEPT)
        self._up: set[str] = set()
        self._cut_off: str | None = None
        self._answer: Answer | None = None

    # What there is to see

    def view(self) -> View:
        now, crew = time.monotonic(), self._crew
        seen = crew.seen
        first = seen.get(FOUNDER, Seen())
        return View(
            seconds=now - self._began,
            step=STEPS.index(self._step),
            text=self._text,
            sites=view_sites(crew.accounts, seen, crew.crossed, sorted(self._up)),
            roads=view_roads(crew.gaps, self._cut_off),
            answer=self._answer,
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
            tasks += await self._build(stack, helpers)
            outcome = await self._write_and_cut(helpers)
            for task in tasks:
                task.cancel()
        return outcome

    async def _build(
        self, stack: contextlib.AsyncExitStack, helpers: asyncio.TaskGroup
    ) -> list[asyncio.Task[None]]:
        def say(site: str, what: str) -> None:
            if what.endswith("up") or "invites" in what:
                self._up.add(site)
            self._tell(f"{site.capitalize()} {what}.", is_headline=False)

        problem = None
        try:
            async with asyncio.timeout(self._pace.build_seconds_max):
                await self._stage.build(say)
                tasks = [helpers.create_task(self._stage.watch())]
                await self._crew.open_lookouts(stack)
                await self._crew.until(lambda lookout: lookout.mesh_stands(len(SITES) - 1))
                self._tell("Every node is linked to every other.", is_headline=False)
                await self._furnish()
                tasks += await self._crew.begin(helpers)
                for site in SITES:
                    took = await self._crew.warm_up(site.name)
                    loaded = f"Its first decision took {words.duration(took)}, loading included."
                    self._tell(f"{site.title} decides, with model {site.model}. {loaded}", is_headline=False)
        except TimeoutError:
            for lookout in self._crew.lookouts.values():
                problem = problem or await lookout.problem()
            raise DataError(
                "demo-not-built",
                f"the nodes were not ready within {self._pace.build_seconds_max:.0f} s",
                detail=problem,
                hint="Look at their logs: atoll demo --home DIR, then atoll logs --home DIR/lisbon",
            ) from None
        return tasks

    async def _furnish(self) -> None:
        await furnish.declare(self._stage.places[FOUNDER].dsn())
        await self._crew.until(lambda lookout: lookout.is_furnished())
        self._tell("Tables and pipelines are everywhere. Lisbon has declared them.", is_headline=False)
        documents = await furnish.add_documents(self._stage.places[AWAY].dsn())
        self._tell(f"Osaka has {documents} documents of its own.", is_headline=False)

    async def _write_and_cut(self, helpers: asyncio.TaskGroup) -> Outcome:
        crew, pace = self._crew, self._pace
        await crew.read_meters()
        writing = [helpers.create_task(one.run()) for one in crew.applications.values()]
        self._begin(CALM)
        await asyncio.sleep(pace.calm_seconds)
        cut = await self._cut_and_mend()
        for application in crew.applications.values():
            application.stop()
        await asyncio.gather(*writing)
        return await self._prove(cut)

    async def _cut_and_mend(self) -> CutFacts:
        crew, away = self._crew, self._crew.accounts[AWAY]
        writes_before = {name: account.writes for name, account in crew.accounts.items()}
        decided_before = away.decided
        took_before, deciding_before = away.took(away.writes), away.deciding(away.decided)
        self._cut_off = AWAY
        await self._stage.cut_off(AWAY)
        began = time.monotonic()
        self._begin(CUT)
        await self._play_acts(began)
        decided = away.decided - decided_before
        deciding = away.deciding(decided)
        if deciding is not None:
            count, took = words.count(decided, "question"), words.duration(deciding.p50)
            self._tell(f"Cut off, Osaka has answered {count}, in {took} each (median).")
        answer = await self._ask()
        writes = {name: account.writes - writes_before[name] for name, account in crew.accounts.items()}
        took_cut = away.took(writes[AWAY])
        waiting, lag = crew.waiting(), crew.lag()
        marks = crew.marks()
        await self._stage.mend()
        mended, self._cut_off = time.monotonic(), None
        self._begin(HEALED)
        converged = await crew.until_seen(marks, mended)
        if converged is not None:
            took = words.duration(converged)
            self._tell(
                f"All that was written and decided during the cut is everywhere, {took} after the mending."
            )
        await asyncio.sleep(self._pace.after_seconds)
        sample = choose_sample(crew.seen[FOUNDER].conflicts)
        if sample is not None:
            self._tell(tell_conflict(sample))
            await self._let_read(self._pace.conflict_seconds)
        return CutFacts(
            seconds=mended - began,
            writes=writes,
            took_before_seconds=took_before,
            took_seconds=took_cut,
            decided=decided,
            deciding_before=deciding_before,
            deciding=deciding,
            answer=answer,
            waiting_most=waiting,
            lag_most_seconds=lag,
            converged_seconds=converged,
        )

    async def _play_acts(self, began: float) -> None:
        self._crew.applications[AWAY].do(SURELY)
        for act in ACTS:
            due = began + act.at * self._pace.cut_seconds
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._crew.applications[act.site].do(act)
            self._tell(tell_act(act))
        await asyncio.sleep(max(0.0, began + self._pace.cut_seconds - time.monotonic()))

    async def _ask(self) -> Answer:
        self._begin(ASK)
        answer = await ask(self._stage.places[AWAY].home, QUESTION)
        self._answer = answer
        self._tell(tell_answer(answer))
        self._tell(f'It says: "{answer.text}"', is_headline=False)
        await self._let_read(self._pace.answer_seconds)
        return answer

    async def _prove(self, cut: CutFacts) -> Outcome:
        self._begin(PROOF)
        await self._crew.until_decided()
        await self._crew.until_seen(self._crew.marks(), time.monotonic())
        outcome = await prove(self._stage.places[FOUNDER].home, self._crew, cut)
        where = "the same on all three nodes" if outcome.has_converged else "NOT the same everywhere"
        self._tell(f"Compared: every row is {where}.")
        await self._let_read(self._pace.proof_seconds)
        return outcome

    async def _let_read(self, seconds: float) -> None:
        if self._screen.is_fleeting:
            await asyncio.sleep(seconds)

    async def _paint(self) -> None:
        while True:
            self._waiting.append(self._crew.waiting())
            self._screen.show(self.view())
            await asyncio.sleep(LOOK_EVERY_SECONDS)
