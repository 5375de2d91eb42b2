"""Requests that are routed while their node's database dies, a link flaps, and many come at once.

Two real nodes, and a server of the test in the part of the cloud. Everything that the first node sends to the
other is taped before it is encrypted.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

import support
from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.providers import Provider, running

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
WIRETAP = Path(support.__path__[0]) / "wiretap"
CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
CLEAN = {"runtime-broken", "runtime-slow", "no-place"}  # what may be told of a try that a cut ended
CROWD = 60
ROUTES = {
    "away": ("--model", "cloud=far", "--prefer", "cloud,here"),
    "near": ("--prefer", "peer,here"),
    "own": (
        *("--model", "cloud=far", "--prefer", "here,peer,cloud"),
        *("--hedge-after", "0.001", "--label", "patient=local"),
    ),
}


@dataclass
class Answer:
    status: int
    place: str
    told: Any
    again_in: str | None = None


@dataclass
class World:
    mesh: Mesh
    cloud: Provider
    tape: Path
    session: aiohttp.ClientSession
    answers: list[Answer] = field(default_factory=list)

    @property
    def here(self) -> MeshNode:
        return self.mesh.nodes[0]

    @property
    def peer(self) -> MeshNode:
        return self.mesh.nodes[1]

    async def ask(self, route: str, words: str, path: str = CHAT, label: str = "", **more: Any) -> Answer:
        assert self.here.running is not None
        said = {"input": words} if path == EMBED else {"messages": [{"role": "user", "content": words}]}
        body = {"model": route, "max_tokens": 4, "temperature": 0, **said, **more}
        headers = {"x-atoll-label": label} if label else {}
        url = f"{self.here.running.http}{path}"
        async with self.session.post(url, json=body, headers=headers) as answer:
            text = await answer.text()
            place = answer.headers.get("x-atoll-decision", "").partition(";")[0]
            told = text if more.get("stream") and answer.status == 200 else json.loads(text)
            return Answer(answer.status, place, told, answer.headers.get("retry-after"))

    @asynccontextmanager
    async def load(self, route: str, callers: int = 4) -> AsyncIterator[list[Answer]]:
        """Callers who ask one thing after the other, none of it twice, until the block ends."""
        answers: list[Answer] = []
        is_over = asyncio.Event()

        async def call(caller: int) -> None:
            while not is_over.is_set():
                answers.append(await self.ask(route, f"question {caller}-{len(answers)}"))

        async with asyncio.TaskGroup() as group:
            for caller in range(callers):
                group.create_task(call(caller))
            yield answers
            is_over.set()

    def has_another_server_than(self, postmaster: int) -> bool:
        try:
            return self.here.postmaster() != postmaster
        except (FileNotFoundError, IndexError):
            return False  # its file is being written

    async def until(self, is_true: Callable[[], Any], what: str) -> None:
        try:
            async with asyncio.timeout(60):
                while not is_true():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"not within a minute: {what}")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world() -> AsyncIterator[World]:
    maker = MeshMaker()
    try:
        mesh = await maker(room=2, flags=("--link-compression", "off"))
        one, tape = mesh.plan(), mesh.folder / "tape"
        path = os.pathsep.join([str(WIRETAP), *filter(None, [os.environ.get("PYTHONPATH")])])
        one.environment = {"PYTHONPATH": path, "WIRETAP": str(tape)}
        await mesh.up(one)
        await mesh.app(one, "create table fence (node integer primary key, n bigint not null)")
        await mesh.app(one, "select atoll.share('fence')")
        await mesh.add()
        await mesh.form()
        home = ("--home", str(one.home))
        connector = aiohttp.TCPConnector(keepalive_timeout=2)  # less than a node waits, or they meet half-way
        async with running("far") as (cloud,), aiohttp.ClientSession(connector=connector) as session:
            terms = ("--region", "eu", "--price-in", "1", "--price-out", "1")
            source = f"upstream:{cloud.base}/v1"
            await mesh.run("model", "add", source, "--model", "m", "--name", "far", *terms, *home)
            for route, flags in ROUTES.items():
                await mesh.run("route", "set", route, "--model", "pebble", *flags, *home)
            made = World(mesh, cloud, tape, session)
            for route, place in (("away", "cloud:far"), ("near", "n2"), ("own", "here")):
                async with asyncio.timeout(60):
                    while (await made.ask(route, "ready?")).place != place:
                        await asyncio.sleep(0.1)
            yield made
    finally:
        await maker.close()


async def test_requests_go_on_and_nothing_is_asked_twice_while_the_nodes_database_dies(world: World) -> None:
    mesh, cloud = world.mesh, world.cloud
    cloud.asks.clear()
    async with world.load("away") as answers:
        for _ in range(2):
            before, seen = world.here.postmaster(), len(answers)
            mesh.kill_postgres(world.here)
            later = await world.ask("away", "later", queue=True)
            assert later.status in (202, 503), later
            assert later.status == 202 or later.told["error"]["code"], "it says why"
            await world.until(
                lambda before=before: world.has_another_server_than(before), "it was started again"
            )
            await mesh.until(world.here, "select true")
            await world.until(lambda seen=seen: len(answers) > seen + 20, "it went on")
    assert Counter((one.status, one.place) for one in answers) == {(200, "cloud:far"): len(answers)}
    asked = Counter(one["messages"][0]["content"] for one in cloud.asks)
    once = {words: count for words, count in asked.items() if words != "later"}
    assert set(once.values()) == {1}
    assert len(once) == len(answers)


async def test_while_a_link_flaps_requests_are_answered_or_end_in_words_and_then_the_peer_answers(
    world: World,
) -> None:
    link = world.mesh.between(world.here, world.peer)
    async with world.load("near") as answers:
        for _ in range(6):
            await link.cut()
            here = sum(one.place == "here" for one in answers)
            await world.until(
                lambda here=here: sum(one.place == "here" for one in answers) > here, "it went on"
            )
            await link.calm()
            await asyncio.sleep(0.2)  # which may be enough for the link to be up, and may not
    found = Counter((one.status, one.place) for one in answers)
    broken = [one for one in answers if one.status != 200]
    assert all(one.told["error"]["code"] in CLEAN for one in broken), broken
    assert len(broken) <= 4 * 6, f"a cut ends at most what is being answered: {found}"
    assert found[200, "here"]
    async with asyncio.timeout(60):
        while (await world.ask("near", "again?")).place != "n2":
            await asyncio.sleep(0.1)


async def test_what_is_local_is_in_nothing_that_leaves_the_node_whatever_fails(world: World) -> None:
    secret, open_word = f"secret{secrets.token_hex(8)}", f"open{secrets.token_hex(8)}"
    print(secret, open_word)
    for path in (CHAT, "/v1/responses"):
        body = {"input": open_word} if path != CHAT else {}
        assert (await world.ask("away", open_word, path, **body)).place == "cloud:far"
    assert (await world.ask("near", open_word)).place == "n2"
    refused = (
        {"provider": {"only": ["cloud", "peer"]}},
        {"provider": {"ignore": ["here"]}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "path": EMBED},
    )
    for more in refused:
        answer = await world.ask("own", secret, label="patient", **more)
        assert answer.status in (400, 403), answer
        assert answer.place in ("", "none"), answer
    crowd = [world.ask("own", secret, label="patient", stream=n % 2 == 0) for n in range(CROWD)]
    answers = await asyncio.gather(*crowd)
    assert Counter(one.status for one in answers).keys() <= {200, 429}
    assert {one.place for one in answers if one.status == 200} == {"here"}
    later = await world.ask("own", secret, label="patient", queue=True)
    assert later.status == 202, later
    await world.mesh.until(
        world.here, "select state = 'done' from atoll.jobs where id = %s", later.told["id"]
    )
    await world.mesh.catch_up()

    sent, heard = world.tape.read_bytes(), "".join(world.cloud.heard)
    assert open_word.encode() in sent, "or the tape shows nothing"
    assert open_word in heard, "or the cloud hears nothing"
    assert secret.encode() not in sent
    assert secret not in heard
    holding = [str(path) for path in files_of(world.peer.home) if secret.encode() in path.read_bytes()]
    assert holding == []


def files_of(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file() and not path.is_symlink()]


async def test_a_flood_is_turned_away_with_when_to_come_again_and_takes_no_memory(world: World) -> None:
    assert world.here.running is not None
    pid = world.here.running.pid
    long = "word " * 40
    await asyncio.gather(*(world.ask("own", long, label="patient") for _ in range(CROWD)))
    before = resident_megabytes(pid)
    statuses: Counter[int] = Counter()

    async def call() -> None:
        for _ in range(3):
            answer = await world.ask("own", long, label="patient")
            statuses[answer.status] += 1
            assert answer.status == 200 or float(answer.again_in or 0) > 0, "it says when to come again"

    await asyncio.gather(*(call() for _ in range(2 * CROWD)))
    assert statuses.keys() <= {200, 429}, statuses
    assert statuses[429], statuses
    assert resident_megabytes(pid) - before < 32, "of 360 requests nothing stays"
    async with asyncio.timeout(60):
        while (await world.ask("own", "and now?", label="patient")).status != 200:
            await asyncio.sleep(0.1)


def resident_megabytes(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2
