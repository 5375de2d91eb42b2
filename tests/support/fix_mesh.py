"""A mesh of real nodes, every pair of them behind weather of its own.

Each node is `atoll up` in a home of its own; they join by real tokens. The links are dialled through
`Weather` proxies of the test, so that any pair can be cut, silenced, delayed or throttled. What is awaited
has a generous deadline and says what it saw when that passes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
import pytest_asyncio

from atoll.demo.ports import free_ports
from atoll.link.weather import Weather
from atoll.node import credentials
from atoll.node.home import open_home
from atoll.node.postgres.leftover import processes_in
from support.fix_home import MYSELF, RunningNode, atoll, atoll_command, clean_environment
from support.folders import short_folder
from support.sessions import Sessions
from support.settling import DEADLINE, POLL_SECONDS, Rows, Settling

BROKEN = re.compile(
    r"^.*ERROR:  (?:.* is ambiguous|syntax error|missing FROM-clause|function atoll\S* does not exist).*$",
    re.MULTILINE,
)
FENCES = "create table fence (node integer primary key, n bigint not null)"


@dataclass
class MeshNode:
    """One node: its home, its ports, its process while it runs."""

    number: int
    name: str
    home: Path
    port: int
    major: str
    flags: tuple[str, ...]
    running: RunningNode | None = None
    is_behind_nat: bool = False
    is_revoked: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def dsn(self, *, as_owner: bool) -> str:
        return credentials.dsn(open_home(self.home), is_admin=as_owner)

    def postmaster(self) -> int:
        return int((self.home / "data/postmaster.pid").read_text().split()[0])

    def log(self, lines: int = 40) -> str:
        said = _heard(self.running)[-lines:] if self.running else []
        postgres = (self.home / "logs/postgres.log").read_text().splitlines()[-lines:]
        return "\n".join([f"-- {self.name} says", *said, "-- its PostgreSQL says", *postgres])


@dataclass(frozen=True)
class Pair:
    """The network between two nodes, whoever dials."""

    both: tuple[Weather, ...]

    async def calm(self) -> None:
        await self._each(lambda weather: weather.calm())

    async def cut(self) -> None:
        await self._each(lambda weather: weather.cut())

    async def fall_silent(self) -> None:
        await self._each(lambda weather: weather.fall_silent())

    async def delay(self, seconds: float) -> None:
        await self._each(lambda weather: weather.delay(seconds))

    async def throttle(self, bytes_per_second: int, delay_seconds: float = 0.0) -> None:
        await self._each(lambda weather: weather.throttle(bytes_per_second, delay_seconds))

    async def _each(self, change: Callable[[Weather], Awaitable[None]]) -> None:
        for weather in self.both:
            await change(weather)


@dataclass
class Mesh:
    """The nodes, and what is between them. `room` is how many there may ever be."""

    folder: Path
    room: int
    flags: tuple[str, ...] = ()
    nodes: list[MeshNode] = field(default_factory=list)
    _weather: dict[tuple[int, int], Weather] = field(default_factory=dict)
    _ports: list[int] = field(default_factory=list)
    _sessions: Sessions = field(default_factory=Sessions)
    _settling: Settling = field(init=False)

    def __post_init__(self) -> None:
        self._settling = Settling(self)

    # Making nodes

    async def open(self) -> None:
        self._ports = free_ports(self.room)
        for a in range(1, self.room + 1):
            for b in range(1, self.room + 1):
                if a != b:
                    weather = self._weather[a, b] = Weather("127.0.0.1", self._ports[b - 1])
                    await weather.start()

    async def close(self) -> None:
        await self._sessions.close()
        for node in self.nodes:
            if node.running is not None and node.running.process.poll() is None:
                node.running.process.kill()
        for node in self.nodes:
            if node.running is not None:
                await asyncio.to_thread(_end, node.running)
        for weather in self._weather.values():
            await weather.stop()

    async def add(
        self, major: str = "18", *flags: str, behind_nat: bool = False, inviter: MeshNode | None = None
    ) -> MeshNode:
        """The next node: the first founds the atoll, the others join it."""
        node = self.plan(major, *flags, behind_nat=behind_nat)
        if node.number > 1:
            await self.join(node, await self.invite(inviter or self.nodes[0]))
        await self.up(node)
        if node.number == 1:
            await self.app(node, FENCES)
            await self.app(node, "select atoll.share('fence')")
        return node

    def plan(self, major: str = "18", *flags: str, behind_nat: bool = False) -> MeshNode:
        """The next node, of which nothing exists yet."""
        number = len(self.nodes) + 1
        dials = ",".join(
            f"n{other}={self._weather[number, other].address}"
            for other in range(1, self.room + 1)
            if other != number and not any(n.number == other and n.is_behind_nat for n in self.nodes)
        )
        link = "off" if behind_nat else f"127.0.0.1:{self._ports[number - 1]}"
        found = ("--name", f"n{number}", "--http", "127.0.0.1:0", "--link", link, "--dial", dials)
        node = MeshNode(
            number,
            f"n{number}",
            self.folder / f"n{number}",
            self._ports[number - 1],
            major,
            (*found, "--postgres", major, *self.flags, *flags),
            is_behind_nat=behind_nat,
        )
        self.nodes.append(node)
        return node

    async def invite(self, inviter: MeshNode, *flags: str) -> str:
        return (await self.run("invite", *flags, "--home", str(inviter.home))).strip().splitlines()[-1]

    async def join(self, node: MeshNode, token: str) -> None:
        await self.run("join", token, "--home", str(node.home), *node.flags)

    async def up(self, node: MeshNode) -> None:
        """Start a node, again or for the first time, and wait until it is ready to serve its own site."""
        process = await asyncio.to_thread(_start, node)
        node.running = RunningNode(node.home, process)
        await asyncio.to_thread(node.running.wait_for, "^READY")

    async def run(self, *arguments: str, fails: bool = False) -> str:
        """A command of atoll, to its end: what it printed, or what it complained of."""
        done = await asyncio.to_thread(atoll, *arguments)
        assert (done.returncode != 0) == fails, f"atoll {' '.join(arguments)}:\n{done.stdout}{done.stderr}"
        return done.stderr if fails else done.stdout

    # Faults

    def between(self, a: MeshNode, b: MeshNode) -> Pair:
        return Pair((self._weather[a.number, b.number], self._weather[b.number, a.number]))

    def around(self, node: MeshNode) -> Pair:
        """The network between a node and all the others."""
        return Pair(tuple(w for ends, w in self._weather.items() if node.number in ends))

    def everywhere(self) -> Pair:
        return Pair(tuple(self._weather.values()))

    async def kill(self, node: MeshNode) -> None:
        """kill -9 of the node."""
        assert node.running is not None
        node.running.process.kill()
        await asyncio.to_thread(_end, node.running)
        node.running = None
        self._forget_sessions(node)

    async def stop(self, node: MeshNode) -> None:
        """An ordinary end."""
        assert node.running is not None
        assert await asyncio.to_thread(node.running.end) == 0
        _end(node.running)
        node.running = None

    async def gone(self, node: MeshNode) -> None:
        """Wait for a node that ends by itself."""
        assert node.running is not None
        await asyncio.to_thread(node.running.process.wait, 60)
        _end(node.running)
        node.running = None

    def kill_postgres(self, node: MeshNode) -> None:
        """kill -9 of the server; the node starts it again."""
        os.kill(node.postmaster(), signal.SIGKILL)
        self._forget_sessions(node)

    def _forget_sessions(self, node: MeshNode) -> None:
        for as_owner in (True, False):
            self._sessions.forget(node.dsn(as_owner=as_owner))

    async def set_clock(self, node: MeshNode, seconds: float) -> None:
        """Move a node's clock, for sessions from now on; those from before are ended."""
        await self._set(node, "atoll.clock_offset_ms", str(round(seconds * 1000)))

    async def stop_clocks(self, at_ms: int | None) -> None:
        """Let every node's clock stand at a time, or go again."""
        for node in self.live():
            await self._set(node, "atoll.clock_stands_at_ms", str(at_ms or ""))

    async def _set(self, node: MeshNode, setting: str, value: str) -> None:
        await self.sql(node, f"alter database atoll set {setting} = '{value}'")
        await self.sql(
            node,
            "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            " and (datname = 'atoll' or backend_type like 'logical replication%')",
        )

    # Asking

    async def sql(self, node: MeshNode, query: str, *values: Any) -> Rows:
        """A statement as the owner."""
        return await self._execute(node.dsn(as_owner=True), query, values)

    async def app(self, node: MeshNode, query: str, *values: Any) -> Rows:
        """A statement as an application."""
        return await self._execute(node.dsn(as_owner=False), query, values)

    async def everywhere_sql(self, query: str, *values: Any) -> dict[str, Rows]:
        """The same question to all nodes."""
        return {node.name: await self.sql(node, query, *values) for node in self.live()}

    async def same(self, query: str, *values: Any) -> Rows:
        """The answer to a question, which has to be the same on all nodes."""
        answers = await self.everywhere_sql(query, *values)
        first = next(iter(answers.values()))
        assert all(answer == first for answer in answers.values()), answers
        return first

    async def share(self, table: str, definition: str, merge: str = "{}", kind: str = "merge") -> None:
        """Make a table on the first node, share it, and wait until every node has it."""
        await self.app(self.nodes[0], f"create table {table} ({definition})")
        await self.app(self.nodes[0], "select atoll.share(%s, %s::jsonb, %s)", table, merge, kind)
        await self.until_known(table)

    async def until_known(self, table: str, nodes: Iterable[MeshNode] | None = None) -> None:
        for node in nodes or self.live():
            known = "select true from atoll.local_table where name = 'public.' || %s and problem is null"
            await self.until(node, known, table)

    async def until(self, node: MeshNode, query: str, *values: Any, seconds: float = DEADLINE) -> Rows:
        """Ask until the answer has a row and its first value is true."""
        deadline = time.monotonic() + seconds
        seen: object = None
        while time.monotonic() < deadline:
            try:
                rows = await self.sql(node, query, *values)
                if rows and rows[0][0]:
                    return rows
                seen = rows
            except psycopg.OperationalError as error:
                seen = error
            await asyncio.sleep(POLL_SECONDS)
        pytest.fail(f"{node.name}: not within {seconds:.0f} s: {query} {values}: {seen}\n{node.log()}")

    async def reasons(self, node: MeshNode) -> dict[str, float]:
        """How many connections a node has refused, by reason."""
        assert node.running is not None
        _, text = await asyncio.to_thread(node.running.get, "/metrics")
        found = re.findall(r'^atoll_link_refusals_total{reason="([^"]+)"} (\S+)$', text, re.MULTILINE)
        return {reason: float(count) for reason, count in found}

    async def until_counted(self, node: MeshNode, reason: str) -> None:
        """Wait until a refusal for this reason is counted."""
        deadline = time.monotonic() + DEADLINE
        while not (await self.reasons(node)).get(reason):
            assert time.monotonic() < deadline, f"{node.name} counts {await self.reasons(node)}"
            await asyncio.sleep(POLL_SECONDS)

    def live(self) -> list[MeshNode]:
        return [node for node in self.nodes if node.running is not None and not node.is_revoked]

    async def _execute(self, dsn: str, query: str, values: Sequence[Any]) -> Rows:
        async with self._sessions.use(dsn) as connection:
            cursor = await connection.execute(cast("LiteralString", query), values or None)
            return await cursor.fetchall() if cursor.description is not None else []

    # Converging: what that means is in settling.py

    async def settle(self, seconds: float = DEADLINE) -> None:
        """Wait until all links are up, what was written has arrived, and all nodes are the same."""
        await self._settling.settle(seconds)

    async def catch_up(self, seconds: float = DEADLINE) -> None:
        """Wait until all links are up and what has been written so far has arrived where it may."""
        await self._settling.catch_up(seconds)

    async def form(self, seconds: float = DEADLINE) -> None:
        """Wait until every node has what the others have, and a link to each."""
        await self._settling.form(seconds)

    async def numbers(self) -> dict[int, MeshNode]:
        """The live nodes by the number that each has now; one that was restored has taken another."""
        return await self._settling.numbers()

    async def regions(self) -> dict[str, list[MeshNode]]:
        """The live nodes of each region."""
        return await self._settling.regions()

    async def states(self, node: MeshNode, table: str) -> Rows:
        """Key and state of every row that a node knows of, living, dead or set aside."""
        return await self._settling.states(node, table)


def make_seed(seed: int | None = None) -> random.Random:
    """A source of randomness whose seed is printed, so that a failing test can be repeated."""
    chosen = seed if seed is not None else int(os.environ.get("SEED", random.SystemRandom().randrange(10**6)))
    print(f"seed {chosen} (repeat with SEED={chosen})")
    return random.Random(chosen)


def pairs(nodes: Sequence[MeshNode]) -> list[tuple[MeshNode, MeshNode]]:
    return list(combinations(nodes, 2))


def _make_folder() -> Path:
    """A folder that every user can pass, with a short name: sockets will be in it."""
    folder = short_folder("atoll-")
    folder.chmod(0o711)
    return folder


def _start(node: MeshNode) -> subprocess.Popen[str]:
    return subprocess.Popen(
        atoll_command(MYSELF, ("up", "--home", str(node.home), *node.flags)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        # What replication got wrong must not be mended before a test sees it.
        env=clean_environment(MYSELF) | {"ATOLL_REPAIR": "off"} | node.environment,
        cwd="/",
    )


def _heard(running: RunningNode) -> list[str]:
    """Everything that a node has said so far."""
    with contextlib.suppress(queue.Empty):
        while (line := running._lines.get_nowait()) is not None:
            running.said.append(line)
    return running.said


def _end(running: RunningNode) -> None:
    running.process.wait()
    if running.process.stdout is not None:
        running.process.stdout.close()


class MeshMaker:
    """Makes meshes and ends them."""

    def __init__(self) -> None:
        self._made: list[Mesh] = []

    async def __call__(self, *majors: str, room: int = 0, flags: Sequence[str] = ()) -> Mesh:
        """A mesh with a node of each of these versions of PostgreSQL, all of them linked."""
        folder = _make_folder()
        mesh = Mesh(folder, max(room, len(majors)), tuple(flags))
        self._made.append(mesh)
        await mesh.open()
        for major in majors:
            await mesh.add(major)
        await mesh.form()
        return mesh

    async def close(self) -> None:
        """Statements of ours that cannot run fail the test: a node says them to its server's log alone."""
        broken: list[str] = []
        for mesh in self._made:
            await mesh.close()
            broken += _broken_statements(mesh.folder)
            for data in mesh.folder.glob("*/data"):
                for pid in processes_in(data):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            shutil.rmtree(mesh.folder, ignore_errors=True)
        assert not broken, broken[:5]


def _broken_statements(folder: Path) -> list[str]:
    logs = (file.read_text(errors="replace") for file in folder.glob("*/logs/postgres.log*"))
    return [match[0] for log in logs for match in BROKEN.finditer(log)]


@pytest_asyncio.fixture(loop_scope="session")
async def make_mesh() -> AsyncIterator[MeshMaker]:
    maker = MeshMaker()
    yield maker
    await maker.close()


LAYOUTS = {"18": ("18", "18", "18"), "16": ("16", "16", "16"), "mixed": ("18", "16", "18")}


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=["18"])
async def trio(request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    """Three nodes for all tests that leave them in order; the parameter says which PostgreSQL they run."""
    maker = MeshMaker()
    try:
        yield await maker(*LAYOUTS[request.param])
    finally:
        await maker.close()


@pytest_asyncio.fixture(loop_scope="session")
async def mesh(trio: Mesh) -> AsyncIterator[Mesh]:
    """The three nodes, all of them running and the weather calm before each test."""
    await trio.everywhere().calm()
    for node in trio.nodes:
        if node.running is None or node.running.process.poll() is not None:
            await trio.up(node)
    yield trio
