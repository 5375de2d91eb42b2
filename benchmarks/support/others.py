"""Other people's servers to measure beside: installed below build/, run as groups of processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

BUILD = Path(__file__).resolve().parents[2] / "build"


def install(name: str, program: str, packages: Sequence[str]) -> Path:
    """Where the program is, in an environment that is made once. CalledProcessError without packages."""
    place = BUILD / name
    found = place / "bin" / program
    if not found.exists():
        print(f"installing {' '.join(packages)} below build/ (once)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
        subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as held:
        return int(held.getsockname()[1])


@contextmanager
def process(command: Sequence[str], log: Path, more: Mapping[str, str] | None = None) -> Iterator[int]:
    """A server and whatever it starts, as a group that is ended as one; `more` goes into its environment."""
    with log.open("wb") as file:
        environment = {**os.environ, **(more or {})}
        started = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True, env=environment)
    try:
        yield started.pid
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def members(group: int) -> list[int]:
    """The processes of a group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            found.append(int(stat.parent.name))
    return found


def cpu_seconds(group: int) -> float:
    """Of all processes of a group that run."""
    ticks = 0
    for pid in members(group):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
