"""One engine that runs or comes up: its process, its socket, and what it is asked about itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from pathlib import Path

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.runtimes import refusals
from atoll.runtimes.http.client import Client
from atoll.runtimes.http.wire import Wire
from atoll.runtimes.llama import course
from atoll.runtimes.llama.process import EngineProcess
from atoll.runtimes.llama.wants import Wants, settings_for_child

SOCKET_PATH_BYTES_MAX = 107
TRY_SECONDS_MIN, TRY_SECONDS_MAX = 0.01, 0.25
CALLERS_TO_MEND = ("parse", "too large", "not support", "exceed")


class Engine:
    """Owns the process and the socket; `close` leaves nothing of either."""

    def __init__(self, process: EngineProcess, path: Path, silence_seconds: float, has_workers: bool) -> None:
        self.process = process
        self._path = path
        self._has_workers = has_workers
        self.wire = Wire(Client("http://engine", silence_seconds, socket=str(path)), _explain)

    @classmethod
    async def launch(
        cls, file: Path, wants: Wants, folder: Path, log: Path, silence_seconds: float
    ) -> Engine:
        """Start the process; it is not ready yet."""
        path = folder / f"llama-{secrets.token_hex(4)}.sock"
        _check_socket(path)
        _sweep(folder)
        told = settings_for_child(file, wants, path, os.cpu_count() or 1)
        process = await EngineProcess.launch(told, log, wants.library)
        return cls(process, path, silence_seconds, bool(wants.workers))

    async def until_ready(self, seconds_max: float) -> None:
        deadline, pause = time.monotonic() + seconds_max, TRY_SECONDS_MIN
        while not await self.answers("/health", 1.0):
            code = await self.process.wait(pause)
            if code is not None:
                raise self.why_not_started(code)
            if time.monotonic() > deadline:
                raise LinkError(
                    "runtime-slow",
                    f"could not load the model within {seconds_max:.0f} s",
                    hint="Try again when the machine is less busy, or ask for a smaller context.",
                )
            pause = min(TRY_SECONDS_MAX, pause * 1.5)

    def why_not_started(self, code: int) -> AtollError:
        return course.why_not_started(code, self.process.last_lines, self._has_workers)

    async def answers(self, path: str, seconds: float) -> bool:
        """Whether it answers a question about itself; that on its slots goes through its main loop."""
        try:
            async with asyncio.timeout(seconds):
                await self.wire.ask(path)
        except (AtollError, TimeoutError):
            return False
        return True

    async def context_tokens(self) -> int:
        """Tokens per request, as the engine has rounded them or the model bounds them."""
        slots = await self.wire.ask("/slots")
        return int(slots[0]["n_ctx"])

    async def close(self) -> None:
        await self.process.kill()
        self.wire.client.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _explain(status: int, body: str, retry_after: str | None) -> AtollError:
    """The engine says 500 to much that its caller has to mend."""
    if status in (500, 501) and any(words in body.lower() for words in CALLERS_TO_MEND):
        status = 400
    return refusals.explain(status, body, retry_after)


def _check_socket(path: Path) -> None:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            "socket-path-too-long",
            f"cannot make a socket at {path}: its path is longer than {SOCKET_PATH_BYTES_MAX} bytes",
            hint="Choose a home with a shorter path.",
        )


def weights_size(path: Path) -> int:
    """The size of a file that begins as GGUF does."""
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise DataError("model-unusable", f"cannot load {path.name}: it is not a GGUF file")
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            "model-unusable", f"cannot read {path.name}", detail=f"{error.strerror or error}."
        ) from error


def _sweep(folder: Path) -> None:
    """Remove sockets of engines whose node was killed: nobody listens on them."""
    for path in folder.glob("llama-*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink(missing_ok=True)
