"""Door and pilot, with a real PostgreSQL behind them and libpq before them: who gets in, and over what."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest

from atoll.link import packets
from atoll.link.door import Door
from atoll.link.pilot import Harbour, Pilot, enter
from atoll.link.startup import Rules
from atoll.link.tls import make_server_context, make_stranger_context
from atoll.node.postgres.server import Postgres
from support.fix_foreign import PASSWORD, Foreign
from support.fix_link import Shore, shore

__all__ = ["shore"]

SECRET = "the door's own"


@pytest.fixture
def run_folder() -> Iterator[Path]:
    """Short, as socket paths must be."""
    folder = Path(tempfile.mkdtemp(prefix="atl", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def door_to(path: Path, shore: Shore | None = None) -> AsyncIterator[Door]:
    """A door that leads node 7 to a socket; with TLS where a shore gives it a certificate."""
    tls = make_server_context(shore.identity(1)) if shore else None
    rules = Rules(user="postgres", database="postgres", only_subscriptions=False)
    door = Door(
        password=SECRET, socket_of=lambda number: path.with_name(f"{path.name}{number}"), tls=tls, rules=rules
    )
    await door.start("127.0.0.1", 0)
    try:
        yield door
    finally:
        await door.stop()


def conninfo(door: Door, **more: object) -> str:
    told = {"user": "node_7", "password": SECRET, "dbname": "x", "sslmode": "disable", **more}
    return psycopg.conninfo.make_conninfo(host="127.0.0.1", port=door.port, connect_timeout=20, **told)


@pytest.fixture
async def way(run_folder: Path, foreign: Foreign) -> AsyncIterator[Path]:
    """A pilot's socket; connections to it end in a server that asks for a password by SCRAM."""
    harbour = Harbour("127.0.0.1", foreign.port, "shop", "manager", PASSWORD, None)
    pilot = Pilot(run_folder / "way7", lambda: harbour)
    await pilot.start()
    yield run_folder / "way"
    await pilot.stop()


async def test_libpq_comes_through_door_and_pilot_into_the_right_role_and_database(way: Path) -> None:
    async with door_to(way) as door, await psycopg.AsyncConnection.connect(conninfo(door)) as connection:
        row = await (await connection.execute("select current_user, current_database()")).fetchone()
        assert row == ("manager", "shop")


async def test_much_passes_both_ways(way: Path) -> None:
    sent = "".join(secrets.token_hex(500) for _ in range(4000))
    async with door_to(way) as door, await psycopg.AsyncConnection.connect(conninfo(door)) as connection:
        row = await (await connection.execute("select %s::text || 'end'", [sent])).fetchone()
        assert row == (sent + "end",)


async def test_over_tls_much_passes_too(way: Path, shore: Shore) -> None:
    """The buffers of TLS and of the streams must not lose or hold back anything."""
    sent = "".join(secrets.token_hex(500) for _ in range(4000))
    async with door_to(way, shore) as door:
        told = conninfo(door, sslmode="require")
        async with await psycopg.AsyncConnection.connect(told) as connection:
            assert connection.pgconn.ssl_in_use
            row = await (await connection.execute("select %s::text || 'end'", [sent])).fetchone()
            assert row == (sent + "end",)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"password": "wrong"}, "password authentication failed at the node's door"),
        ({"password": "wrong", "user": "postgres"}, "password authentication failed at the node's door"),
        ({"user": "postgres"}, "the user of this door is node_N"),
        ({"user": "node_0"}, "the user of this door is node_N"),
        ({"user": "node_8"}, "there is no peer with number 8"),
    ],
)
async def test_who_may_not_come_in_is_told_so(way: Path, more: dict[str, str], told: str) -> None:
    async with door_to(way) as door:
        with pytest.raises(psycopg.OperationalError, match=told):
            await psycopg.AsyncConnection.connect(conninfo(door, **more))


async def test_a_door_with_tls_lets_nobody_in_without(way: Path, shore: Shore) -> None:
    async with door_to(way, shore) as door:
        with pytest.raises(psycopg.OperationalError, match="TLS is required here"):
            await psycopg.AsyncConnection.connect(conninfo(door, sslmode="disable"))


@pytest.mark.parametrize(
    "garbage",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 8, b"\xff" * 100],
    ids=["nothing", "http", "zeros", "ones"],
)
async def test_garbage_ends_and_the_door_stays(way: Path, garbage: bytes) -> None:
    async with door_to(way) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(garbage)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        async with await psycopg.AsyncConnection.connect(conninfo(door)) as connection:
            await connection.execute("select")


async def test_the_pilot_speaks_tls_and_proves_itself(way: Path, shore: Shore) -> None:
    """The door stands for a server with TLS; the bundled programs have none."""
    async with door_to(way, shore) as door:
        context = make_stranger_context(None)
        harbour = Harbour("127.0.0.1", door.port, "x", "node_7", SECRET, context, is_tls_required=True)
        _, writer = await enter(harbour, {"application_name": "test"})
        assert writer.get_extra_info("ssl_object") is not None
        writer.close()


async def test_the_pilot_does_not_go_on_without_tls_where_that_is_demanded(foreign: Foreign) -> None:
    harbour = Harbour(
        "127.0.0.1",
        foreign.port,
        "shop",
        "manager",
        PASSWORD,
        make_stranger_context(None),
        is_tls_required=True,
    )
    with pytest.raises(Exception, match="does not speak TLS"):
        await enter(harbour, {})


@pytest.mark.parametrize("method", ["md5", "scram-sha-256", "password", "trust"])
async def test_the_pilot_answers_as_it_is_asked(foreign: Foreign, method: str) -> None:
    """Clear text is told to nobody over a way that others may listen on."""
    encryption = "md5" if method == "md5" else "scram-sha-256"
    foreign.superuser(
        f"set password_encryption = '{encryption}'; create role {method[:4]}_user login password 'p'"
    )
    lines = f"host all {method[:4]}_user all {method}\nhost all all all scram-sha-256\n"
    (foreign.postgres.data / "pg_hba.conf").write_text(lines)
    foreign.superuser("select pg_reload_conf()")
    harbour = Harbour("127.0.0.1", foreign.port, "shop", f"{method[:4]}_user", "p", None)
    async with asyncio.timeout(60):
        while not foreign.superuser(f"select 1 from pg_hba_file_rules where auth_method = '{method}'"):
            await asyncio.sleep(0.05)
    if method == "password":
        with pytest.raises(Exception, match="in a way that is not safe"):
            await enter(harbour, {})
        return
    reader, writer = await enter(harbour, {})
    kind, _ = await packets.read_message(reader)
    assert kind == b"S"
    writer.close()


async def test_what_the_server_says_of_a_wrong_password_reaches_the_peer(
    run_folder: Path, foreign: Foreign
) -> None:
    pilot = Pilot(
        run_folder / ".s.PGSQL.5432",
        lambda: Harbour("127.0.0.1", foreign.port, "shop", "manager", "no", None),
    )
    await pilot.start()
    with pytest.raises(psycopg.OperationalError, match='password authentication failed for user "manager"'):
        await psycopg.AsyncConnection.connect(host=str(run_folder), user="x", dbname="y", connect_timeout=20)
    await pilot.stop()


async def test_a_server_that_is_away_is_said_to_be(run_folder: Path) -> None:
    pilot = Pilot(
        run_folder / ".s.PGSQL.5432", lambda: Harbour("127.0.0.1", 1, "shop", "manager", "no", None)
    )
    await pilot.start()
    with pytest.raises(psycopg.OperationalError, match="could not connect to the node's PostgreSQL"):
        await psycopg.AsyncConnection.connect(host=str(run_folder), user="x", dbname="y", connect_timeout=20)
    await pilot.stop()


async def test_the_pilot_takes_a_socket_too(bare_server: Postgres) -> None:
    harbour = Harbour(str(bare_server.wishes.run), bare_server.port, "postgres", "atoll", "", None)
    reader, writer = await enter(harbour, {})
    kind, _ = await packets.read_message(reader)
    assert kind == b"S"
    writer.close()
