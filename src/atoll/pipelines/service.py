"""Pipelines of this node: carries out what is declared, and runs a worker for each that is not paused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.rows import dict_row

from atoll.pipelines.job import Connect, Connection, Job
from atoll.serving.service import Serving
from atoll.sql import query
from atoll.sql.sessions import heard

if TYPE_CHECKING:
    from atoll.pipelines.worker import Worker

LOOK_SECONDS = 5.0
IDLE_SECONDS = 60.0  # where none is declared, and one that comes is noticed
AGAIN_SECONDS = 1.0
COUNT_EVERY = 3  # looks
log = logging.getLogger(__name__)


class Pipelines:
    """`connect_as_app` runs people's expressions, `connect_as_owner` makes triggers."""

    def __init__(self, serving: Serving, connect_as_app: Connect, connect_as_owner: Connect) -> None:
        self._serving = serving
        self._connect_as_app = connect_as_app
        self._connect_as_owner = connect_as_owner
        self._workers: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self._before: dict[str, tuple[int, int]] = {}  # scored and failed by workers that have ended
        self._listing: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    async with await self._connect_as_owner() as connection:
                        await connection.execute("listen atoll_pipelines")
                        await self._follow(connection, group)
                except (psycopg.Error, OSError) as error:
                    log.warning("pipelines wait for the database: %s", error)
                    await asyncio.sleep(AGAIN_SECONDS)

    async def _follow(self, connection: Connection, group: asyncio.TaskGroup) -> None:
        looks = 0
        while True:
            await connection.execute(query("pipelines", "install"))
            await connection.execute(query("pipelines", "embed"))
            rows = await (await connection.execute(query("pipelines", "wanted"))).fetchall()
            await self._man({row[0]: Job(*row) for row in rows}, group)
            if looks % COUNT_EVERY == 0 or not self._listing:
                cursor = connection.cursor(row_factory=dict_row)
                self._listing = await (await cursor.execute(query("pipelines", "listing"))).fetchall()
                if any(row["waiting"] for row in self._listing):
                    await connection.execute(query("pipelines", "tidy"))
            looks += 1
            pause = LOOK_SECONDS if self._listing else IDLE_SECONDS
            await heard(connection, pause)

    async def _man(self, jobs: dict[str, Job], group: asyncio.TaskGroup) -> None:
        """Workers for these, and for no other; one whose declaration has changed makes way for a new one."""
        for name, (worker, task) in list(self._workers.items()):
            if jobs.get(name) != worker.job:
                task.cancel()
                await asyncio.wait({task})
                scored, failed = self._before.get(name, (0, 0))
                self._before[name] = (scored + worker.scored, failed + worker.failed)
                del self._workers[name]
        for name, job in jobs.items():
            if name not in self._workers:
                # With a worker comes numpy, which a node without pipelines need not hold.
                from atoll.pipelines.worker import Worker

                worker = Worker(job, self._serving, self._connect_as_app)
                self._workers[name] = (worker, group.create_task(worker.run()))

    def numbers(self) -> Iterable[Metric]:
        """The metric families of pipelines; waiting and dead rows as they were counted last."""
        waiting = GaugeMetricFamily(
            "atoll_pipeline_waiting", "Rows that wait to be scored.", labels=["pipeline"]
        )
        oldest = GaugeMetricFamily(
            "atoll_pipeline_oldest_seconds", "How long the oldest of them has waited.", labels=["pipeline"]
        )
        dead = GaugeMetricFamily("atoll_pipeline_dead", "Rows that were given up.", labels=["pipeline"])
        running = GaugeMetricFamily("atoll_pipeline_running", "1 while it scores.", labels=["pipeline"])
        scored = CounterMetricFamily("atoll_pipeline_scored", "Rows scored.", labels=["pipeline"])
        failed = CounterMetricFamily(
            "atoll_pipeline_failures", "Tries that a row failed.", labels=["pipeline"]
        )
        for row in self._listing:
            name = [row["name"]]
            waiting.add_metric(name, row["waiting"])
            oldest.add_metric(name, row["oldest_seconds"] or 0)
            dead.add_metric(name, row["dead"])
            running.add_metric(name, row["state"] in ("running", "backfill"))
            before = self._before.get(row["name"], (0, 0))
            worker = self._workers[row["name"]][0] if row["name"] in self._workers else None
            scored.add_metric(name, before[0] + (worker.scored if worker else 0))
            failed.add_metric(name, before[1] + (worker.failed if worker else 0))
        yield from (waiting, oldest, dead, running, scored, failed)
