"""Works jobs off that this node may do: what router/jobs/turns.py decides, done.

A lease is taken before a model is asked, and renewed while it answers. When that cannot be done in time, or
the job has come to an end elsewhere, the work is given up; a kill leaves a lease that runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from psycopg.types.json import Jsonb

from atoll.domain.errors import AtollError, DataError, LinkError
from atoll.domain.models import Skill
from atoll.router.asked import Asked, read_asked
from atoll.router.jobs.queue import JobQueue
from atoll.router.jobs.turns import Claim, Job, Leave, Take, Wait, decide, pause_seconds
from atoll.router.service import Router
from atoll.runtimes.answers import embedded, gather
from atoll.serving import asking
from atoll.serving.service import Serving
from atoll.sql import query
from atoll.sql.sessions import Connect, Connection, heard, keep

AT_ONCE = 4
LOOKED_AT = 100
LOOK_SECONDS = 5.0
BREATH_SECONDS = 0.01
AWAY_SECONDS = 30.0
TIDY_SECONDS = 60.0
RESULT_CHARACTERS_MAX = 1_000_000
EMBEDDINGS = "/v1/embeddings"
AWAY = ("runtime-crowded", "model-unknown")  # which is no fault of the job; nor is a place that is away
log = logging.getLogger(__name__)

Json = dict[str, Any]


class JobWorker:
    """Runs for as long as the node does."""

    def __init__(self, serving: Serving, router: Router, jobs: JobQueue, connect: Connect) -> None:
        self._serving = serving
        self._router = router
        self._jobs = jobs
        self._connect = connect
        self._working: dict[int, asyncio.Task[None]] = {}
        self._tidied_at = 0.0
        self._counts: dict[str, int] = {}
        self._done = self._failed = 0

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            await keep(self._connect, "jobs", partial(self._follow, group))

    async def _follow(self, group: asyncio.TaskGroup, connection: Connection) -> None:
        await connection.execute("listen atoll_jobs")
        self._jobs.wake()
        while True:
            pause = await self._look(connection, group)
            await self._tidy(connection)
            for note in await heard(connection, max(pause, BREATH_SECONDS)):
                self._jobs.hear(note.payload)
            await asyncio.sleep(BREATH_SECONDS)

    def numbers(self) -> Iterable[Metric]:
        known = GaugeMetricFamily(
            "atoll_jobs", "Jobs that this node knows of, a minute ago.", labels=["state"]
        )
        for state, count in self._counts.items():
            known.add_metric([state], count)
        yield known
        yield GaugeMetricFamily("atoll_jobs_working", "Jobs that this node works on.", len(self._working))
        yield CounterMetricFamily("atoll_jobs_done", "Jobs that this node has answered.", self._done)
        yield CounterMetricFamily("atoll_jobs_failures", "Tries of a job that failed here.", self._failed)

    async def _look(self, connection: Connection, group: asyncio.TaskGroup) -> float:
        """Begin what is due; when to look again at the latest."""
        models = [word.model for word in self._serving.models()] + self._router.names()
        rows = await (await connection.execute(query("jobs", "open"), (models, LOOKED_AT))).fetchall()
        pause = LOOK_SECONDS
        for me, *fields, claims, now in rows:
            facts: Any = (*fields, tuple(Claim(*claim) for claim in claims))
            job = Job(*facts)
            if job.id in self._working:
                continue
            match decide(job, me, now):
                case Take() if len(self._working) < AT_ONCE:
                    task = group.create_task(self._work(job))
                    self._working[job.id] = task
                    task.add_done_callback(partial(self._leave, job.id))
                case Wait(seconds):
                    pause = min(pause, seconds)
                case Take() | Leave():
                    pass
        return pause

    def _leave(self, job: int, _: asyncio.Task[None]) -> None:
        del self._working[job]

    async def _tidy(self, connection: Connection) -> None:
        if time.monotonic() - self._tidied_at >= TIDY_SECONDS:
            await connection.execute(query("jobs", "tidy"))
            rows = await (await connection.execute(query("jobs", "counts"))).fetchall()
            self._counts = dict(rows)
            self._tidied_at = time.monotonic()

    async def _work(self, job: Job) -> None:
        """One try. Whatever goes wrong with it is the job's, and not the node's."""
        try:
            row = await self._run("claim", (job.id,))
            if row is None:
                return
            answer = await self._while_leased(job, self._answer(job, *row))
            if answer is not None and await self._end(job, "done", {"result": answer}):
                self._done += 1
        except (psycopg.Error, OSError) as error:
            log.warning("could not write what came of job %d: %s", job.id, error)
        except DataError as error:
            if _is_away(error):
                await self._fail(job, error)
            else:
                told = {"code": error.code, "problem": _words(error)}
                await self._end(job, "refused", told)
        except Exception as error:
            if not isinstance(error, AtollError):
                log.exception("job %d goes wrong", job.id)
            await self._fail(job, error)

    async def _while_leased(self, job: Job, work: Coroutine[Any, Any, Json]) -> Json | None:
        """What comes of it; nothing where the job has come to an end elsewhere, or the lease has run out."""
        working = asyncio.ensure_future(work)
        leasing = asyncio.ensure_future(self._keep_lease(job))
        try:
            await asyncio.wait({working, leasing}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            for task in (working, leasing):
                task.cancel()
            await asyncio.gather(working, leasing, return_exceptions=True)

    async def _keep_lease(self, job: Job) -> None:
        """Renew it for as long as that can be done."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + job.turn_seconds
        while loop.time() < ends_at:
            await asyncio.sleep(job.turn_seconds / 3)
            try:
                asked_at = loop.time()
                async with asyncio.timeout(max(ends_at - asked_at, 0)):
                    if await self._run("claim", (job.id,)) is None:
                        return
                ends_at = asked_at + job.turn_seconds
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.debug("could not renew the lease on job %d: %s", job.id, error)

    async def _answer(self, job: Job, path: str, body: Json, scope: str, caller: str | None) -> Json:
        scopes = frozenset({scope})
        skill = Skill.EMBED if path == EMBEDDINGS else Skill.GENERATE
        routed = None
        if self._router.has(job.model):
            routed = read_asked(path, skill, job.model, body, {}, caller, scopes)
        else:
            scopes = self._router.check_direct(job.model, caller, scopes)
        answer = (
            await self._embedded(job.model, body, routed)
            if skill is Skill.EMBED
            else await self._said(job.model, path, body, scopes, routed)
        )
        answer["model"] = job.model
        if len(json.dumps(answer)) > RESULT_CHARACTERS_MAX:
            raise DataError("job-result", f"the answer has more than {RESULT_CHARACTERS_MAX} characters")
        return answer

    async def _said(
        self, model: str, path: str, body: Json, scopes: frozenset[str], routed: Asked | None
    ) -> Json:
        opening = (
            asking.generate(self._serving, model, path, body, scopes)
            if routed is None
            else self._router.generate(routed, body).answer()
        )
        async with opening as events:
            return gather(path, [event async for event in events])

    async def _embedded(self, model: str, body: Json, routed: Asked | None) -> Json:
        texts = asking.texts_of(body)
        if routed is None:
            return embedded(await asking.embed(self._serving, model, texts), body)
        async with self._router.embed(routed, texts).answer() as found:
            return embedded(found, body)

    async def _end(self, job: Job, state: str, more: Json) -> bool:
        row = await self._run("finish", (job.id, state, Jsonb(more)))
        return bool(row and row[0])

    async def _fail(self, job: Job, error: Exception) -> None:
        is_away = _is_away(error)
        tries = sum(claim.tries for claim in job.claims)
        pause = AWAY_SECONDS if is_away else pause_seconds(tries)
        self._failed += 1
        with contextlib.suppress(psycopg.Error, OSError):
            await self._run("fail", (job.id, not is_away, pause, _words(error)))

    async def _run(self, name: str, parameters: tuple[Any, ...]) -> tuple[Any, ...] | None:
        async with await self._connect() as connection:
            return await (await connection.execute(query("jobs", name), parameters)).fetchone()


def _is_away(error: Exception) -> bool:
    is_lacking = isinstance(error, AtollError) and error.code in AWAY
    return is_lacking or (isinstance(error, LinkError) and error.code == "no-place")


def _words(error: Exception) -> str:
    if not isinstance(error, AtollError):
        return repr(error)
    return " ".join([f"{error.message}.", *(part for part in (error.detail, error.hint) if part)])
