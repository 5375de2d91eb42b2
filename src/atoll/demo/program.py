"""Commands of Atoll as child processes: run to their end, or nodes that run until they are told to stop.

A child ends with this process, also when this one is killed. What a command refuses is raised here, as it
said it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Sequence

from atoll.domain.errors import AtollError
from atoll.node.postgres.server import LEASH

RUN_ATOLL = "from atoll.cli.app import main; main()"
LINES_KEPT = 50
STOP_SECONDS_MAX = 45.0


class Program:
    """One child process, and the last lines that it said."""

    def __init__(self, name: str, process: Process) -> None:
        self._name = name
        self._process = process
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def until_ready(self) -> None:
        """Until it says READY; what it says instead is raised."""
        waits = [asyncio.create_task(event.wait()) for event in (self._ready, self._ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if not self._ready.is_set():
            raise read_error(self.lines, self._name)

    async def until_ended(self) -> AtollError:
        """Until it ends, which nobody asked it to do."""
        await self._ended.wait()
        return read_error(self.lines, self._name)

    def stop(self) -> None:
        """Ask it to end; asked a second time, at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()

    async def ended(self) -> None:
        """Until it has ended after `stop`, by force if need be."""
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            self.lines.append(text)
            if text.startswith("READY "):
                self._ready.set()
        self._ended.set()


async def start(name: str, *arguments: str) -> Program:
    """Start `atoll ARGUMENTS` as a child with a name."""
    # A session of its own: Ctrl-C in the terminal is for the demo, which then stops its nodes in order.
    return Program(
        name,
        await asyncio.create_subprocess_exec(
            *_command(arguments),
            cwd="/",
            env=_environment(),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        ),
    )


async def run(*arguments: str, codes: Sequence[int] = (0,)) -> str:
    """What `atoll ARGUMENTS` prints."""
    process = await asyncio.create_subprocess_exec(
        *_command(arguments),
        cwd="/",
        env=_environment(),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode not in codes:
        raise read_error(errors.decode(errors="replace").splitlines(), arguments[0])
    return output.decode().strip()


def read_error(lines: Sequence[str] | deque[str], name: str) -> AtollError:
    """The error that a command of Atoll printed, as an error again."""
    told: dict[str, str] = {}
    for line in lines:
        for label in ("error", "detail", "hint"):
            if line.startswith(f"{label}: "):
                told[label] = line.removeprefix(f"{label}: ")
    if "error" in told:
        return AtollError("node-failed", told["error"], detail=told.get("detail"), hint=told.get("hint"))
    detail = f"It last said: {lines[-1]}" if lines else "It said nothing."
    return AtollError("node-failed", f'"{name}" of the demo ended unasked', detail=detail)


def _command(arguments: Sequence[str]) -> list[str]:
    who = [str(os.getpid()), str(int(signal.SIGTERM)), str(os.geteuid()), str(os.getegid()), "", "--"]
    python = [sys.executable, "-I", "-S", str(LEASH), *who, sys.executable]
    return [*python, "-c", RUN_ATOLL, *arguments]


def _environment() -> dict[str, str]:
    """The environment without the settings of another node."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("ATOLL_", "PG"))}
