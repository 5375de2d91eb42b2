"""The change feed over HTTP, on a real socket and a real database: nothing is skipped, whoever breaks off."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from atoll.node import listen
from atoll.node.values import Address
from atoll.web.app import WebServer, make_app
from atoll.web.feed import Bounds, feed_route
from support.fix_nodes import Node, Nodes
from support.fix_postgres import APP_ROLE

pytestmark = pytest.mark.slow

TABLE = "create table note (id bigint primary key, words text)"
DEADLINE_SECONDS = 60.0
MAKE = "/feed/f?create=true&tables=note"


@pytest.fixture
def two(nodes: Nodes) -> Nodes:
    nodes[0].run(TABLE)
    nodes[0].share("note")
    nodes.sync()
    return nodes


@dataclass(frozen=True)
class Event:
    kind: str
    id: str
    data: Any

    @property
    def words(self) -> list[str]:
        return [row["row"]["words"] for row in self.data["rows"]]


class Reader:
    """One request and what comes of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.body = b""

    async def head(self) -> Reader:
        async with asyncio.timeout(DEADLINE_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
        self.status = int(head.split()[1])
        self.is_chunked = b"chunked" in head.lower()
        return self

    async def _line(self) -> str | None:
        """The next line of the body; chunks are joined."""
        while b"\n" not in self.body:
            if not self.is_chunked:
                more = await self._reader.read(65536)
            else:
                size = int(await self._reader.readline() or b"0", 16)
                more = await self._reader.readexactly(size) if size else b""
                await self._reader.readline()
            if not more:
                return None
            self.body += more
        line, _, self.body = self.body.partition(b"\n")
        return line.decode()

    async def event(self) -> Event | None:
        """The next event; none when the stream has ended."""
        found: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (line := await self._line()) is not None:
                if line == "" and "data" in found:
                    return Event(found["event"], found.get("id", ""), json.loads(found["data"]))
                name, _, value = line.partition(": ")
                found[name] = value
        return None

    async def words(self, how_many: int) -> tuple[list[str], str]:
        """So many rows' words, and the id of the last event."""
        found: list[str] = []
        last = ""
        while len(found) < how_many:
            event = await self.event()
            assert event is not None, f"the stream ended after {found}"
            assert event.kind == "change", event
            found, last = found + event.words, event.id
        return found, last

    async def error(self) -> str:
        async with asyncio.timeout(DEADLINE_SECONDS):
            return str(json.loads(await self._reader.read())["error"]["code"])

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


class Door:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._made: list[Reader] = []

    async def get(self, path: str, last: str = "", user: str = "app") -> Reader:
        reader, writer = await asyncio.open_connection(self._address.host, self._address.port, limit=2**16)
        self._made.append(Reader(reader, writer))
        secret = base64.b64encode(f"{user}:secret".encode()).decode()
        after = f"Last-Event-ID: {last}\r\n" if last else ""
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\n{after}Authorization: Basic {secret}\r\n\r\n".encode()
        )
        return await self._made[-1].head()

    async def close(self) -> None:
        for reader in self._made:
            await reader.close()


@asynccontextmanager
async def door(node: Node, bounds: Bounds | None = None) -> AsyncIterator[Door]:
    async def connect() -> psycopg.AsyncConnection[Any]:
        return await psycopg.AsyncConnection.connect(
            node.database.conninfo(APP_ROLE), autocommit=True, application_name="feed under test"
        )

    listener = listen.bind(Address("127.0.0.1", 0), "--http")
    app = make_app(dict, CollectorRegistry(), [feed_route(connect, lambda: "secret", bounds)])
    serving = asyncio.create_task(WebServer(app, listener).run())
    found = Door(listen.bound(listener))
    try:
        yield found
    finally:
        await found.close()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_changes_come_as_events_as_they_are_made_and_as_they_arrive(two: Nodes) -> None:
    here, there = two
    async with door(here) as http:
        reader = await http.get(MAKE)
        assert reader.status == 200
        here.run("insert into note values (1, 'one'), (2, 'two')")
        first = await reader.event()
        assert first is not None
        assert (first.kind, first.words) == ("change", ["one", "two"])
        assert (first.data["table"], first.data["origin"]) == ("public.note", here.number)
        assert [row["op"] for row in first.data["rows"]] == ["I", "I"]
        there.run("insert into note values (3, 'three')")
        here.receive(there.changes())
        assert (await reader.words(1))[0] == ["three"]


async def test_a_reader_comes_back_where_it_was_and_only_that_moves_the_feed(two: Nodes) -> None:
    here = two[0]
    place = "select xid::text || '.' || pos from atoll.cursor where name = 'f'"
    async with door(here) as http:
        reader = await http.get(MAKE)
        began = here.value(place)
        for number, word in enumerate(("one", "two", "three")):
            here.run("insert into note values (%s, %s)", number, word)
        _, second = await reader.words(2)
        assert (await reader.words(1))[0] == ["three"]
        await reader.close()
        assert here.value(place) == began, "sent is not had"
        again = await http.get("/feed/f")
        assert (await again.words(3))[0] == ["one", "two", "three"], (
            "who says nothing begins where the feed is"
        )
        resumed = await http.get("/feed/f", second)
        assert (await resumed.words(1))[0] == ["three"]
        assert here.value(place) == second
        late = await http.get("/feed/f", began)
        assert (late.status, await late_code(late)) == (409, "feed-position")


async def late_code(reader: Reader) -> str:
    event = json.loads((await reader._reader.readuntil(b"}}")).decode())
    return str(event["error"]["code"])


async def test_a_stream_ends_so_that_its_reader_confirms(two: Nodes) -> None:
    here = two[0]
    async with door(here, replace(Bounds(), unconfirmed_max=3)) as http:
        seen: list[str] = []
        last = ""
        reader = await http.get(MAKE)
        for number in range(10):
            here.run("insert into note values (%s, %s)", number, f"word {number}")
        while len(seen) < 10:
            while (event := await reader.event()) is not None:
                seen, last = seen + event.words, event.id
            reader = await http.get("/feed/f", last)
        assert seen == [f"word {number}" for number in range(10)], "each came once"


async def test_the_latest_reader_has_the_feed(two: Nodes) -> None:
    here = two[0]
    async with door(here) as http:
        first = await http.get(MAKE)
        second = await http.get("/feed/f")
        told = await first.event()
        assert told is not None
        assert (told.kind, told.data["code"]) == ("error", "feed-taken")
        assert await first.event() is None
        here.run("insert into note values (1, 'one')")
        assert (await second.words(1))[0] == ["one"]


async def test_a_reader_that_takes_nothing_is_given_up(two: Nodes) -> None:
    here = two[0]
    async with door(here, replace(Bounds(), slow_seconds_max=1.0)) as http:
        await http.get(MAKE)
        here.run("insert into note select n, repeat('x', 100000) from generate_series(1, 400) n")
        await until(
            here, "select count(*) = 0 from pg_stat_activity where application_name = 'feed under test'"
        )
    assert here.value("select count(*) from atoll.cursor where name = 'f'") == 1, "the feed stays"


async def test_who_leaves_frees_what_was_held(two: Nodes) -> None:
    here = two[0]
    async with door(here) as http:
        reader = await http.get(MAKE)
        await until(
            here, "select count(*) = 1 from pg_stat_activity where application_name = 'feed under test'"
        )
        await reader.close()
        await until(
            here, "select count(*) = 0 from pg_stat_activity where application_name = 'feed under test'"
        )


async def until(node: Node, question: str) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not node.apply.execute(question.encode()).fetchall()[0][0]:
            await asyncio.sleep(0.02)


async def test_a_feed_that_has_missed_changes_says_so_in_the_stream(two: Nodes) -> None:
    here = two[0]
    async with door(here) as http:
        reader = await http.get(MAKE)
        here.owner("update atoll.cursor set missed = true")
        told = await reader.event()
        assert told is not None
        assert (told.kind, told.data["code"]) == ("error", "feed-missed")
        assert "Read the tables anew" in told.data["hint"]
        assert await reader.event() is None
        again = await http.get("/feed/f")
        told = await again.event()
        assert told is not None
        assert told.data["code"] == "feed-missed"


@pytest.mark.parametrize(
    ("path", "last", "user", "status"),
    [
        (MAKE, "", "else", 401),
        ("/feed/unknown", "", "app", 404),
        ("/feed/Bad%20Name?create=true", "", "app", 400),
        ("/feed/f?create=true&tables=nowhere", "", "app", 400),
        ("/feed/f?tables=note", "", "app", 400),
        ("/feed/f?create=maybe", "", "app", 400),
        ("/feed/f?more=1", "", "app", 400),
        (MAKE, "nonsense", "app", 400),
        (MAKE, "1.2.3", "app", 400),
        (MAKE, "99999999999.1", "app", 409),
    ],
)
async def test_what_cannot_be_is_refused(two: Nodes, path: str, last: str, user: str, status: int) -> None:
    async with door(two[0]) as http:
        reader = await http.get(path, last, user)
        assert reader.status == status
        assert await late_code(reader) != ""


async def test_readers_have_a_bound(two: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atoll.web.feed.READERS_MAX", 1)
    async with door(two[0]) as http:
        await http.get(MAKE)
        other = await http.get("/feed/g?create=true")
        assert (other.status, await late_code(other)) == (429, "feed-crowded")
