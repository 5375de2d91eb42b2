"""Those who work beside the play: who writes at each site, who hears what is decided, who looks at each node.

What they know together is here: accounts, what is seen where, who lacks what, what the links have carried.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

import psycopg

from atoll.demo.gap import Gap, Mark, Way, mark, measure
from atoll.demo.hearing import hear
from atoll.demo.ledger import Account
from atoll.demo.meter import sent_bytes
from atoll.demo.scenario import SITES, Pace
from atoll.demo.sites import source_of
from atoll.demo.stage import Stage
from atoll.demo.traffic import Application
from atoll.demo.watch import Lookout, Seen
from atoll.domain.errors import DataError

LOOK_EVERY_SECONDS = 0.2
METER_EVERY_SECONDS = 1.0


class Crew:
    def __init__(self, stage: Stage, pace: Pace) -> None:
        self._stage = stage
        self._pace = pace
        self.applications: dict[str, Application] = {}
        self.lookouts: dict[str, Lookout] = {}
        self.gaps: dict[Way, Gap] = {}
        self._sent_before: dict[str, int] = {}
        self.crossed: dict[str, int] = {}

    @property
    def accounts(self) -> dict[str, Account]:
        return {name: application.account for name, application in self.applications.items()}

    @property
    def seen(self) -> dict[str, Seen]:
        return {name: lookout.seen for name, lookout in self.lookouts.items()}

    def marks(self) -> dict[str, Mark]:
        now = time.monotonic()
        return {name: mark(account, now) for name, account in self.accounts.items()}

    def waiting(self) -> int:
        return sum(gap.waiting for gap in self.gaps.values())

    def lag(self) -> float:
        return max((gap.lag_seconds for gap in self.gaps.values()), default=0.0)

    async def open_lookouts(self, stack: contextlib.AsyncExitStack) -> None:
        for site in SITES:
            dsn = self._stage.places[site.name].dsn(is_admin=True)
            connection = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            self.lookouts[site.name] = Lookout(site, await stack.enter_async_context(connection))

    async def until(self, is_true: Callable[[Lookout], Awaitable[bool]]) -> None:
        """Until something is true of every node."""
        for lookout in self.lookouts.values():
            while not await is_true(lookout):
                await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def begin(self, helpers: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Listen and look; what goes on until it is cancelled."""
        tasks = []
        for number, site in enumerate(SITES):
            dsn, seed = self._stage.places[site.name].dsn(), self._pace.seed + number
            application = Application(
                site,
                source_of(site.trade, seed),
                dsn,
                self._pace.writes_per_second,
                random.Random(seed),  # noqa: S311
            )
            self.applications[site.name] = application
            is_listening = asyncio.Event()
            tasks.append(helpers.create_task(hear(site, dsn, application.account, is_listening)))
            await is_listening.wait()
        tasks += [helpers.create_task(self._look(name)) for name in self.lookouts]
        tasks.append(helpers.create_task(self._read_meters()))
        return tasks

    async def warm_up(self, name: str) -> float:
        """Have a site's model loaded by a first row; how long that took."""
        began = time.monotonic()
        application = self.applications[name]
        await application.observe()
        while not application.account.decided:
            await asyncio.sleep(LOOK_EVERY_SECONDS / 4)
        application.account.forget_times()
        return time.monotonic() - began

    async def until_seen(self, marks: dict[str, Mark], since: float) -> float | None:
        """Seconds until every node has what was acknowledged before; none if that takes too long."""
        while time.monotonic() - since < self._pace.converge_seconds_max:
            if all(mark.is_seen(seen, site) for seen in self.seen.values() for site, mark in marks.items()):
                return time.monotonic() - since
            await asyncio.sleep(LOOK_EVERY_SECONDS / 4)
        return None

    async def until_decided(self) -> None:
        """Until no row waits for its decision; not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._pace.converge_seconds_max):
                while any(account.decided < account.observed for account in self.accounts.values()):
                    await asyncio.sleep(LOOK_EVERY_SECONDS / 4)

    async def _look(self, name: str) -> None:
        lookout = self.lookouts[name]
        while True:
            marks = self.marks()
            try:
                await lookout.look()
            except psycopg.Error as error:
                raise DataError(
                    "demo-look-failed", f"could not look at {name}: {str(error).strip().splitlines()[0]}"
                ) from error
            self.gaps |= measure(self.accounts, marks, name, lookout.seen)
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def read_meters(self) -> None:
        """What every node has sent since this was called first."""
        for name, place in self._stage.places.items():
            sent = await sent_bytes(place.http_port)
            if sent is not None:
                self.crossed[name] = sent - self._sent_before.setdefault(name, sent)

    async def _read_meters(self) -> None:
        while True:
            await self.read_meters()
            await asyncio.sleep(METER_EVERY_SECONDS)
