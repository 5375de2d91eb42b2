"""Starts, watches and ends the process of an engine. What it says goes into a bounded log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from pathlib import Path
from typing import Any

from atoll.observe.logs import RotatingFile

CHILD = Path(__file__).with_name("child.py")
LOG_BYTES_MAX = 1024 * 1024
LOGS_KEPT = 1
LAST_LINES, LINE_LENGTH_MAX = 20, 500
# What an engine needs of the environment; a key or a password of the node's is none of its business.
ENVIRONMENT = frozenset(
    ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES")
)


class EngineProcess:
    """One child process, from launch to exit."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._output = RotatingFile(log, LOG_BYTES_MAX, LOGS_KEPT)
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._exit = asyncio.create_task(self._run())

    @classmethod
    async def launch(
        cls, told: dict[str, Any], log: Path, library: Path | None = None, program: Path = CHILD
    ) -> EngineProcess:
        """With a library, its functions take the place of the engine's own."""
        environment = {key: value for key, value in os.environ.items() if key in ENVIRONMENT}
        if library is not None:
            environment["LD_PRELOAD"] = " ".join(filter(None, (str(library), environment.get("LD_PRELOAD"))))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            str(program),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        engine = cls(process, log)
        assert process.stdin is not None
        try:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(json.dumps(told).encode())
                await process.stdin.drain()
        except BaseException:
            await engine.kill()
            raise
        process.stdin.close()
        return engine

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_lines(self) -> list[str]:
        return list(self._last)

    async def wait(self, seconds: float | None = None) -> int | None:
        """The exit code; None where it still runs after so many seconds."""
        done, _ = await asyncio.wait({self._exit}, timeout=seconds)
        return self._exit.result() if done else None

    async def kill(self) -> None:
        """End it at once: there is nothing in it to save."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        await self.wait()

    def memory_bytes(self) -> int:
        """What it holds in memory, weights that are mapped from the file included."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def _run(self) -> int:
        """Write what it says into the log, to its end."""
        assert self._process.stdout is not None
        rest = ""
        while block := await self._process.stdout.read(65536):
            self._output.write(block)
            *lines, rest = (rest + block.decode(errors="replace")).split("\n")
            self._last.extend(line[:LINE_LENGTH_MAX] for line in lines if line.strip())
            rest = rest[-LINE_LENGTH_MAX:]
        self._output.close()
        return await self._process.wait()
