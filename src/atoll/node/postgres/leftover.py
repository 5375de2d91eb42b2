"""The processes of a PostgreSQL server that an earlier node left behind, found and ended.

Every process of a server works in its data folder, and that is how they are known: a pid from a file may long
belong to somebody else. Only the holder of the home's lock may call this.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from pathlib import Path

FAST_SECONDS_MAX = 20.0
IMMEDIATE_SECONDS_MAX = 5.0
LOOK_EVERY_SECONDS = 0.05
log = logging.getLogger(__name__)


def processes_in(data: Path) -> list[int]:
    """The processes whose working folder is this one."""
    found = []
    target = os.path.realpath(data)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry.name}/cwd") == target:
                    found.append(int(entry.name))
    return found


def postmaster_of(data: Path) -> int | None:
    """The postmaster named by postmaster.pid, if that process really serves this data folder."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (OSError, ValueError):
        return None
    return pid if pid in processes_in(data) else None


async def end_leftover(data: Path) -> bool:
    """End what an earlier node left running on this data folder; true if there was something."""
    if not processes_in(data):
        _drop_foreign_pid(data)
        return False
    postmaster = postmaster_of(data)
    log.warning("ending what an earlier node left running: %s", processes_in(data))
    for sign, seconds in ((signal.SIGINT, FAST_SECONDS_MAX), (signal.SIGQUIT, IMMEDIATE_SECONDS_MAX)):
        if postmaster is not None:
            _send(postmaster, sign)
        if await _gone(data, seconds if postmaster is not None else IMMEDIATE_SECONDS_MAX):
            return True
    for pid in processes_in(data):
        _send(pid, signal.SIGKILL)
    await _gone(data, IMMEDIATE_SECONDS_MAX)
    return True


def _drop_foreign_pid(data: Path) -> None:
    """Where the pid in a stale file now belongs to somebody else, PostgreSQL would refuse to start."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        if os.path.exists(f"/proc/{pid}"):
            (data / "postmaster.pid").unlink()


async def _gone(data: Path, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while processes_in(data):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    return True


def _send(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)


def send_to_postmaster(data: Path, sign: signal.Signals) -> None:
    """Signal the server of a data folder, if there is one."""
    postmaster = postmaster_of(data)
    if postmaster is not None:
        _send(postmaster, sign)
