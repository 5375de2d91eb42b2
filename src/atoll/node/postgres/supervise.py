"""Keeps one PostgreSQL running: start, wait until it answers, start again after a crash, stop in order.

What to do after an exit is decided in course.py; here it is done. While the server answers, one connection is
kept open, so that a server that restarts itself after a crash of one of its processes is noticed too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from asyncio.subprocess import Process
from collections import deque

import psycopg

from atoll.domain.errors import ConfigError
from atoll.node.postgres import course, leftover
from atoll.node.postgres import server as postgres
from atoll.node.postgres.disk import DiskWatch
from atoll.node.postgres.server import Postgres
from atoll.node.report import Readiness
from atoll.observe.logs import RotatingFile

FAST_STOP_SECONDS_MAX = 30.0
ANSWER_SECONDS_MAX = 30.0
ASK_EVERY_SECONDS = 5.0
TRY_SECONDS_MIN = 0.02
TRY_SECONDS_MAX = 0.5
LAST_LINES = 20
log = logging.getLogger(__name__)


class Supervisor:
    """Owns the server's process. `run` returns when it was told to stop and the server has ended."""

    def __init__(self, server: Postgres, output: RotatingFile, readiness: Readiness, disk: DiskWatch) -> None:
        self._server = server
        self._output = output
        self._readiness = readiness
        self._disk = disk
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self.course = course.Course()
        self.answers = asyncio.Event()

    @property
    def restarts(self) -> int:
        return self.course.restarts

    def stop(self) -> None:
        """End the server in order; asked a second time, at once."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    def hurry(self) -> None:
        self._hurry.set()

    async def run(self) -> None:
        await leftover.end_leftover(self._server.data)
        while not self._stopping.is_set():
            started = time.monotonic()
            await self._one_life()
            if self._stopping.is_set():
                return
            step = course.after_exit(self.course, time.monotonic() - started, self._disk.is_full)
            self.course = step.course
            if step.gives_up:
                raise self._hopeless()
            log.warning("PostgreSQL ended; starting it again in %.1f s", step.pause_seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), step.pause_seconds)

    async def _one_life(self) -> None:
        """From start to exit of one server process."""
        await leftover.end_leftover(self._server.data)
        self._disk.make_room()
        postgres.configure(self._server, self._disk.is_full)
        process = await postgres.start(self._server)
        log.debug("PostgreSQL started with pid %d", process.pid)
        helpers = [asyncio.create_task(step) for step in (self._listen(process), self._watch())]
        stop = asyncio.create_task(self._stopping.wait())
        try:
            ended = asyncio.create_task(process.wait())
            await asyncio.wait((ended, stop), return_when=asyncio.FIRST_COMPLETED)
            helpers[1].cancel()
            await _end(process, ended, self._hurry)
        finally:
            self.answers.clear()
            if not self._stopping.is_set():
                self._readiness.hold("postgres", "PostgreSQL is not running")
            for task in (*helpers[1:], stop):
                task.cancel()
            # The rest of what the server said is read to its end, which its exit brings.
            await asyncio.wait(helpers, timeout=1.0)
            helpers[0].cancel()

    async def _watch(self) -> None:
        """Say whether the server answers, for as long as it lives."""
        pause = TRY_SECONDS_MIN
        while True:
            try:
                async with await self._server.connect("postgres") as connection:
                    pause = TRY_SECONDS_MIN
                    self.answers.set()
                    self.course = course.after_ready(self.course)
                    self._readiness.clear("postgres")
                    while True:
                        await asyncio.sleep(ASK_EVERY_SECONDS)
                        async with asyncio.timeout(ANSWER_SECONDS_MAX):
                            await connection.execute("select")
            except (psycopg.Error, OSError, TimeoutError) as error:
                self.answers.clear()
                self._readiness.hold("postgres", "PostgreSQL does not answer")
                log.debug("PostgreSQL does not answer: %s", error)
            await asyncio.sleep(pause)
            pause = min(TRY_SECONDS_MAX, pause * 1.3)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        while block := await process.stdout.read(65536):
            self._output.write(block)
            self._last.extend(block.decode(errors="replace").splitlines())

    def _hopeless(self) -> ConfigError:
        return ConfigError(
            "postgres-does-not-start",
            "PostgreSQL does not start",
            detail=_last_words(list(self._last)),
            hint="Its log is in logs/postgres.log in the home.",
        )


def _last_words(lines: list[str]) -> str:
    """What the server died of; the line before often says more than the one that says so."""
    fatal = next((number for number, line in enumerate(lines) if "FATAL:" in line), len(lines) - 1)
    words = [line.partition("] ")[2].strip() or line.strip() for line in lines[max(0, fatal - 1) : fatal + 1]]
    return "; ".join(words) or "It said nothing."


async def _end(process: Process, ended: asyncio.Task[int], hurry: asyncio.Event) -> None:
    """Stop the server: fast, then at once when that takes long or when somebody is in a hurry."""
    hurried = asyncio.create_task(hurry.wait())
    try:
        for sign, seconds in ((signal.SIGINT, FAST_STOP_SECONDS_MAX), (signal.SIGQUIT, 10.0)):
            if ended.done():
                return
            _send(process, sign)
            waits = {ended, hurried} if sign is signal.SIGINT else {ended}
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            _send(process, signal.SIGKILL)
            await ended
    finally:
        hurried.cancel()


def _send(process: Process, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(sign)
