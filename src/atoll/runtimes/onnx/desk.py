"""Where requests wait for one of a few threads, and are run, alone or together.

Who leaves while it waits is forgotten; who leaves while it runs stops the run, if nobody else is in it. The
queue, the wait and the run are bounded. What is run together is decided in merging.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from atoll.domain.errors import AtollError, LinkError
from atoll.runtimes.contract import Array
from atoll.runtimes.onnx.engine import Engine, Stop
from atoll.runtimes.onnx.merging import likeness, merge, part, rows_of
from atoll.runtimes.onnx.wants import Wants

STOP_SECONDS_MAX = 5.0
Outputs = dict[str, Array]


@dataclass(eq=False)
class _Job:
    inputs: Mapping[str, Array]
    wanted: Sequence[str]
    answer: asyncio.Future[Outputs]
    rows: int
    like: Hashable
    """None where it is run alone."""
    expiry: asyncio.TimerHandle


@dataclass(eq=False)
class _Run:
    jobs: list[_Job]
    stop: Stop
    limit: asyncio.TimerHandle


class Desk:
    def __init__(self, engine: Engine, wants: Wants, *, merges: bool) -> None:
        self._engine = engine
        self._wants = wants
        self._merges = merges
        self._pool = ThreadPoolExecutor(wants.at_once_max, "onnx")
        self._waiting: deque[_Job] = deque()
        self._runs: dict[asyncio.Future[list[Outputs | AtollError]], _Run] = {}
        self._is_open = True

    async def run(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> Outputs:
        if not self._is_open:
            raise _ended()
        if len(self._waiting) >= self._wants.waiting_max:
            raise LinkError(
                "runtime-crowded",
                f"{self._wants.waiting_max} requests wait for the model already",
                hint="Try again in a moment.",
            )
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outputs] = loop.create_future()
        rows = rows_of(inputs) if self._merges else 0
        like = likeness(inputs, wanted) if 0 < rows <= self._wants.merged_request_rows_max else None
        expiry = loop.call_later(self._wants.wait_seconds_max, self._expire, answer)
        job = _Job(inputs, wanted, answer, rows, like, expiry)
        self._waiting.append(job)
        self._begin()
        try:
            return await answer
        finally:
            expiry.cancel()
            self._leave(job)

    async def stop(self) -> None:
        self._is_open = False
        for job in self._waiting:
            _tell(job, _ended())
        self._waiting.clear()
        for run in self._runs.values():
            run.stop.now()
        if self._runs:
            await asyncio.wait(self._runs, timeout=STOP_SECONDS_MAX)
        self._pool.shutdown(wait=False)

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._runs) < self._wants.at_once_max:
            jobs = self._take()
            for job in jobs:
                job.expiry.cancel()
            stop = Stop()
            run = _Run(jobs, stop, loop.call_later(self._wants.run_seconds_max, stop.now))
            done = loop.run_in_executor(self._pool, _work, self._engine, jobs, stop)
            self._runs[done] = run
            done.add_done_callback(self._finish)

    def _take(self) -> list[_Job]:
        """The first that waits, and those like it, as far as they fit; the others keep their order."""
        first = self._waiting.popleft()
        if first.like is None or not self._waiting:
            return [first]
        jobs, rows = [first], first.rows
        for job in list(self._waiting):
            if job.like == first.like and rows + job.rows <= self._wants.merged_rows_max:
                jobs.append(job)
                rows += job.rows
                self._waiting.remove(job)
        return jobs

    def _finish(self, done: asyncio.Future[list[Outputs | AtollError]]) -> None:
        run = self._runs.pop(done)
        run.limit.cancel()
        if not self._is_open:
            outcomes: Sequence[Outputs | AtollError] = [_ended()] * len(run.jobs)
        elif run.stop.is_said:
            outcomes = [_too_slow(self._wants.run_seconds_max)] * len(run.jobs)
        else:
            outcomes = done.result()
        for job, outcome in zip(run.jobs, outcomes, strict=True):
            _tell(job, outcome)
        self._begin()

    def _leave(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        for run in self._runs.values():
            if job in run.jobs and all(other.answer.done() for other in run.jobs):
                run.stop.now()

    def _expire(self, answer: asyncio.Future[Outputs]) -> None:
        if not answer.done():
            seconds = self._wants.wait_seconds_max
            answer.set_exception(
                LinkError("runtime-slow", f"the model could not begin within {seconds:g} seconds")
            )


def _work(engine: Engine, jobs: list[_Job], stop: Stop) -> list[Outputs | AtollError]:
    """In a thread. Where what was merged fails, each is run alone: the error is that of one of them."""
    if len(jobs) > 1:
        with contextlib.suppress(Exception):
            outputs = engine.run(merge([job.inputs for job in jobs]), jobs[0].wanted, stop)
            return list(part(outputs, [job.rows for job in jobs]))
    found: list[Outputs | AtollError] = []
    for job in jobs:
        try:
            found.append(engine.run(job.inputs, job.wanted, stop))
        except AtollError as error:
            found.append(error)
    return found


def _tell(job: _Job, outcome: Outputs | AtollError) -> None:
    if job.answer.done():
        return
    if isinstance(outcome, AtollError):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)


def _ended() -> LinkError:
    return LinkError("runtime-broken", "the model is not loaded any more", hint="Ask again, or elsewhere.")


def _too_slow(seconds: float) -> LinkError:
    return LinkError("runtime-slow", f"the model could not answer within {seconds:g} seconds")
