"""Homes in folders that PostgreSQL's user can reach, and real nodes that run in them.

A node that a test starts ends with the test, and also when the test run itself is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from atoll.node.postgres.leftover import processes_in
from atoll.node.postgres.server import LEASH
from support.folders import short_folder

COMMAND_SECONDS = 240.0  # some fetch sources and build them
DEADLINE_SECONDS = 90.0
RUN_MAIN = "from atoll.cli.app import main; main()"


@dataclass(frozen=True)
class Account:
    """A user to run a node as, and an interpreter that this user can start."""

    uid: int
    gid: int
    python: str
    path: str = ""


MYSELF = Account(os.geteuid(), os.getegid(), sys.executable)


def atoll_command(account: Account, arguments: tuple[str, ...]) -> list[str]:
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(signal.SIGTERM))]
    return [*leash, str(account.uid), str(account.gid), "", "--", account.python, "-c", RUN_MAIN, *arguments]


def clean_environment(account: Account = MYSELF) -> dict[str, str]:
    """The environment without settings of the person who runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ATOLL_", "PG"))}
    return kept | ({"PYTHONPATH": account.path} if account.path else {})


def atoll(*arguments: str, account: Account = MYSELF, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of atoll to its end."""
    return subprocess.run(
        atoll_command(account, arguments),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        stdin=subprocess.DEVNULL,
        env=clean_environment(account) | environment,
        cwd="/",
    )


@dataclass
class RunningNode:
    """`atoll up` as a process."""

    home: Path
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        return "\n".join(self.said)

    @property
    def http(self) -> str:
        """The address of HTTP, from the READY line."""
        found = re.search(r"READY .*(http://\S+)", self.output)
        assert found, self.output
        return found[1]

    def wait_for(self, pattern: str) -> str:
        """The first line, from now on, in which a pattern is found."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no line with {pattern!r} within {DEADLINE_SECONDS} s:\n{self.output}")
            if line is None:
                pytest.fail(f"the node ended without a line with {pattern!r}:\n{self.output}")
            self.said.append(line)
            if re.search(pattern, line):
                return line

    def end(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Signal the node and wait for its exit code."""
        self.process.send_signal(sign)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(DEADLINE_SECONDS)
        while (line := self._lines.get(timeout=DEADLINE_SECONDS)) is not None:
            self.said.append(line)
        return code

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of an HTTP answer."""
        try:
            with urllib.request.urlopen(self.http + path, timeout=DEADLINE_SECONDS) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def sql(self, statement: str, *options: str) -> subprocess.CompletedProcess[str]:
        return atoll("sql", "--home", str(self.home), "-c", statement, *options)

    def status(self) -> dict[str, Any]:
        answer = atoll("status", "--json", "--home", str(self.home))
        return dict(json.loads(answer.stdout))

    def server_processes(self) -> list[int]:
        return processes_in(self.home / "data")

    def server_owners(self) -> set[int]:
        """Who runs the server; some of its processes live for a moment only."""
        owners = set()
        for pid in self.server_processes():
            with contextlib.suppress(FileNotFoundError):
                owners.add(os.stat(f"/proc/{pid}").st_uid)
        return owners


def engines_of(node: RunningNode) -> list[int]:
    """The processes of the node that run language models."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
            command = Path("/proc", entry, "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == node.pid and b"llama" in command:
            found.append(int(entry))
    return found


NodeStarter = Callable[..., RunningNode]


def eventually(is_true: Callable[[], object], what: str) -> None:
    """Wait, with a generous end, until something is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not is_true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {DEADLINE_SECONDS} s: {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def an_open_folder() -> Iterator[Path]:
    """A folder that every user can pass; pytest's own are closed where root runs the tests."""
    folder = short_folder("atoll-test-")
    folder.chmod(0o711)
    yield folder
    for data in folder.glob("*/data"):
        for pid in processes_in(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    with an_open_folder() as folder:
        yield folder


@pytest.fixture
def home_folder(open_folder: Path) -> Path:
    """Where a home may be made; nothing is there yet."""
    return open_folder / "home"


@contextlib.contextmanager
def starting(home_folder: Path) -> Iterator[NodeStarter]:
    """Starts nodes, ready ones unless told otherwise, and ends them all."""
    started: list[RunningNode] = []

    def start(
        *flags: str,
        home: Path = home_folder,
        account: Account = MYSELF,
        waits: str | None = "^READY",
        **environment: str,
    ) -> RunningNode:
        ports = [] if "--http" in flags else ["--http", "127.0.0.1:0"]
        ports += [] if "--link" in flags else ["--link", "off"]
        arguments = ("up", "--home", str(home), *ports, *flags)
        process = subprocess.Popen(
            atoll_command(account, arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=clean_environment(account) | environment,
            cwd="/",
        )
        node = RunningNode(home, process)
        started.append(node)
        if waits is not None:
            node.wait_for(waits)
        return node

    try:
        yield start
    finally:
        for node in started:
            if node.process.poll() is None:
                node.process.kill()
            node.process.wait(DEADLINE_SECONDS)
            if node.process.stdout is not None:
                node.process.stdout.close()


@pytest.fixture
def start_node(home_folder: Path) -> Iterator[NodeStarter]:
    with starting(home_folder) as start:
        yield start
