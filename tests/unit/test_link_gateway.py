"""PostgreSQL's way through a link: a scripted far end for the plumbing, a real server for what it is for."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql as text

from atoll.domain.errors import ConfigError
from atoll.link.gateway import Gateway
from atoll.link.peers import Links
from atoll.link.startup import Rules
from atoll.node.postgres.server import Postgres
from support.fix_link import Shore, connect, eventually, shore

__all__ = ["shore"]

Visitor = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def startup(user: str = "atoll_link", database: str = "atoll") -> bytes:
    body = f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!II", len(body) + 8, 196608) + body


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """Short, as socket paths must be, and passable for the server's user."""
    folder = Path(tempfile.mkdtemp(prefix="atl", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@dataclass
class Strait:
    """Node 2's gateway is the near end, node 1's the far end."""

    one: Links
    two: Links
    far: Gateway
    near: Gateway

    async def visit(self) -> Visitor:
        return await asyncio.open_unix_connection(str(self.near.socket_path(1)))

    @property
    def is_empty(self) -> bool:
        return self.far.open_bridges == self.near.open_bridges == 0


async def make_strait(
    shore: Shore, folder: Path, postgres_socket: Path, rules: Rules, owner_uid: int | None = None
) -> Strait:
    one, two = await shore.links(1), await shore.links(2)
    far = Gateway(one, folder=folder / "far", postgres_socket=postgres_socket, rules=rules)
    near = Gateway(
        two,
        folder=folder / "near",
        postgres_socket=postgres_socket,
        rules=rules,
        owner_uid=owner_uid,
        link_seconds_max=0.2,
    )
    await connect(one, two)
    await near.set_peers([1, 2])
    return Strait(one, two, far, near)


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]


async def parrot(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Echoes until the client ends, then says goodbye."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write(b"bye")
    writer.close()


@pytest.fixture
async def strait(shore: Shore, run_folder: Path) -> AsyncIterator[Strait]:
    server = await asyncio.start_unix_server(parrot, str(run_folder / "server"))
    strait = await make_strait(shore, run_folder, run_folder / "server", Rules(only_subscriptions=False))
    yield strait
    for gateway in (strait.near, strait.far):
        await gateway.stop()
    await eventually(lambda: strait.is_empty)
    server.close()


async def test_bytes_pass_both_ways_and_an_end_passes_before_the_last_answer(strait: Strait) -> None:
    reader, writer = await strait.visit()
    sent = startup() + b"".join(b"d" + struct.pack("!I", 4 + 60_000) + os.urandom(60_000) for _ in range(60))

    async def send() -> None:
        for begin in range(0, len(sent), 100_000):
            writer.write(sent[begin : begin + 100_000])
            await writer.drain()
        writer.write_eof()

    sender = asyncio.create_task(send())
    assert await reader.read(-1) == sent + b"bye"
    await sender
    writer.close()
    await eventually(lambda: strait.is_empty, "closing of everything")
    assert strait.one.report()[0].streams == 0


async def test_a_client_that_hangs_up_is_gone_at_the_far_end_too(strait: Strait) -> None:
    visitors = [await strait.visit() for _ in range(10)]
    for reader, writer in visitors:
        writer.write(startup())
        assert await reader.readexactly(len(startup())) == startup()
    assert strait.far.open_bridges == 10
    for _, writer in visitors:
        writer.transport.abort()
    await eventually(lambda: strait.is_empty, "closing of everything")


@pytest.mark.slow
async def test_a_client_that_does_not_read_is_waited_for(strait: Strait) -> None:
    reader, writer = await strait.visit()
    writer.write(startup())
    written = 0
    while written < 1_000_000_000:
        block = b"d" + struct.pack("!I", 4 + 65_000) + os.urandom(65_000)
        writer.write(block)
        try:
            async with asyncio.timeout(1):
                await writer.drain()
        except TimeoutError:
            break
        written += len(block)
    assert written < 50_000_000
    total = 0
    writer.write_eof()
    while data := await reader.read(1_000_000):
        total += len(data)
    assert total == len(startup()) + written + len(block) + len(b"bye")
    writer.close()


async def test_the_superuser_is_refused_with_an_error_that_a_client_understands(strait: Strait) -> None:
    reader, writer = await strait.visit()
    writer.write(startup(user="atoll"))
    answer = await reader.read(-1)
    assert answer.startswith(b"E")
    assert b'only role "atoll_link" is allowed' in answer
    writer.close()
    await eventually(lambda: strait.is_empty)
    assert strait.one.refusals() == {"startup": 1}
    assert strait.one.report()[0].state == "up"


async def test_without_a_link_the_client_is_told_so(strait: Strait) -> None:
    await strait.one.stop()
    await eventually(lambda: strait.two.report()[0].state != "up")
    reader, writer = await strait.visit()
    writer.write(startup())
    assert b'there is no link to node "n1" now' in await reader.read(-1)
    writer.close()


async def test_a_client_that_comes_while_the_link_is_away_gets_through_when_it_is_back(
    shore: Shore, strait: Strait, run_folder: Path
) -> None:
    strait.near._link_seconds_max = 20.0
    identity, port = strait.one._identity, strait.one.port
    await strait.one.stop()
    await eventually(lambda: strait.two.report()[0].state != "up")
    reader, writer = await strait.visit()
    writer.write(startup())
    again = await shore.links(1, identity=identity, listen=("127.0.0.1", port), boot="second")
    rules = Rules(only_subscriptions=False)
    far = Gateway(again, folder=run_folder / "far", postgres_socket=run_folder / "server", rules=rules)
    assert await reader.readexactly(len(startup())) == startup()
    writer.close()
    await eventually(lambda: far.open_bridges == 0)


async def test_without_a_server_at_the_far_end_the_client_is_told_so(
    strait: Strait, run_folder: Path
) -> None:
    (run_folder / "server").unlink()
    reader, writer = await strait.visit()
    writer.write(startup())
    assert b"could not connect to PostgreSQL" in await reader.read(-1)
    writer.close()
    await eventually(lambda: strait.is_empty)


async def test_sockets_come_and_go_with_the_peers(strait: Strait) -> None:
    path = strait.near.socket_path
    assert stat.S_IMODE(path(1).stat().st_mode) == 0o700
    assert not path(2).exists()
    await strait.near.set_peers([1, 3, 4])
    assert path(3).exists()
    await strait.near.set_peers([4])
    assert [path(number).exists() for number in (1, 3, 4)] == [False, False, True]


async def test_a_path_that_is_too_long_is_refused(strait: Strait, tmp_path: Path) -> None:
    gateway = Gateway(strait.two, folder=tmp_path / ("x" * 100), postgres_socket=Path("/nowhere"))
    with pytest.raises(ConfigError) as caught:
        await gateway.set_peers([1])
    assert caught.value.code == "socket-path-too-long"


# With a real PostgreSQL


@dataclass
class Sea:
    """A publishing and a subscribing database, the second reaching the first through a link only."""

    strait: Strait
    server: Postgres
    publisher: str
    subscriber: str

    def conninfo(self, **more: object) -> str:
        return psycopg.conninfo.make_conninfo(
            host=str(self.strait.near._folder), port=1, sslmode="disable", connect_timeout=20,
            **{"user": "atoll_link", "dbname": self.publisher} | more,
        )  # fmt: skip


@pytest.fixture
async def sea(shore: Shore, run_folder: Path, bare_server: Postgres) -> AsyncIterator[Sea]:
    publisher, subscriber = (f"{name}_{secrets.token_hex(4)}" for name in ("pub", "sub"))
    async with await bare_server.connect("postgres") as connection:
        for name in (publisher, subscriber):
            await connection.execute(
                text.SQL("create database {} template template0").format(text.Identifier(name))
            )
    rules = Rules(database=publisher, only_subscriptions=False)
    strait = await make_strait(shore, run_folder, bare_server.socket, rules, bare_server.account.uid)
    yield Sea(strait, bare_server, publisher, subscriber)
    for gateway in (strait.near, strait.far):
        await gateway.stop()
    await eventually(lambda: strait.is_empty)
    async with await bare_server.connect("postgres") as connection:
        for name in (subscriber, publisher):
            await connection.execute(text.SQL("drop database {} with (force)").format(text.Identifier(name)))


async def test_the_link_s_role_gets_in_and_nobody_else(sea: Sea) -> None:
    async with await psycopg.AsyncConnection.connect(sea.conninfo()) as connection:
        row = await (await connection.execute("select current_user, current_database()")).fetchone()
        assert row == ("atoll_link", sea.publisher)
    for changes in ({"user": "atoll"}, {"user": "app"}, {"dbname": "postgres"}, {"replication": "true"}):
        with pytest.raises(psycopg.OperationalError, match="allowed on a link"):
            await psycopg.AsyncConnection.connect(sea.conninfo(**changes))
    assert sea.strait.one.refusals() == {"startup": 4}


async def test_the_cluster_cannot_be_copied(sea: Sea) -> None:
    assert await ask_walsender(sea.conninfo(replication="database"), "IDENTIFY_SYSTEM")
    for command in ("BASE_BACKUP", "START_REPLICATION 0/0", "CREATE_REPLICATION_SLOT x PHYSICAL"):
        with pytest.raises(psycopg.Error, match="allowed on a link"):
            await ask_walsender(sea.conninfo(replication="database"), command)
    assert sea.strait.one.refusals() == {"startup": 3}


async def ask_walsender(conninfo: str, command: LiteralString) -> object:
    """One replication command as a simple query, as it has to be."""
    async with await psycopg.AsyncConnection.connect(
        conninfo, autocommit=True, cursor_factory=psycopg.AsyncClientCursor
    ) as connection:
        return await (await connection.execute(command)).fetchone()


async def test_a_subscription_copies_and_follows_through_the_link(sea: Sea) -> None:
    async with (
        await sea.server.connect(sea.publisher) as publisher,
        await sea.server.connect(sea.subscriber) as subscriber,
    ):
        for connection in (publisher, subscriber):
            await connection.execute("create table tide (id int primary key, note text)")
        await publisher.execute(
            "insert into tide select n, repeat('x', 200) from generate_series(1, 20000) n"
        )
        await publisher.execute("grant select on tide to atoll_link")
        await publisher.execute("create publication p for table tide")
        await publisher.execute("select pg_create_logical_replication_slot('s_link', 'pgoutput')")
        await subscriber.execute(
            text.SQL(
                "create subscription s connection {} publication p"
                " with (create_slot = false, slot_name = s_link)"
            ).format(text.Literal(sea.conninfo()))
        )
        await publisher.execute("insert into tide select n, 'later' from generate_series(20001, 21000) n")
        try:
            await until(subscriber, "select count(*) = 21000 from tide")
            await publisher.execute("update tide set note = 'changed' where id = 1")
            await until(subscriber, "select note = 'changed' from tide where id = 1")
            assert sea.strait.two.report()[0].raw_in_bytes > 20_000 * 200
        finally:
            await subscriber.execute("drop subscription s")
        await eventually(lambda: sea.strait.is_empty, "ending of the streams")


async def until(connection: psycopg.AsyncConnection[tuple[object, ...]], query: str) -> None:
    """Ask again until the answer is true."""
    async with asyncio.timeout(60):
        while (await (await connection.execute(query)).fetchone() or [False])[0] is not True:  # type: ignore[arg-type]
            await asyncio.sleep(0.05)
