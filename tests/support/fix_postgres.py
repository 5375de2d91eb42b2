"""A real PostgreSQL for each worker of the test run, and a fresh database with Atoll installed for each test.

The server listens on a Unix socket only and ends with the worker, also when that is killed. A database is
cloned from one in which everything has been installed once, which takes a fraction of installing it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql as text

from atoll import sql
from atoll.node.account import server_account
from atoll.node.postgres import conf as postgres_conf
from atoll.node.postgres import programs
from atoll.node.postgres import server as postgres
from atoll.node.postgres.conf import APP_ROLE, OWNER, Wishes
from atoll.node.postgres.server import Postgres
from support.folders import short_folder

DEADLINE_SECONDS = 90.0
APP_PASSWORD = "a password of the tests"
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Database:
    """A database of one test."""

    server: Postgres
    name: str

    def conninfo(self, role: str = OWNER) -> str:
        password = APP_PASSWORD if role == APP_ROLE else None
        return psycopg.conninfo.make_conninfo(
            self.server.conninfo(role, self.name), password=password, connect_timeout=30
        )

    async def connect(self, role: str = OWNER, autocommit: bool = True) -> Connection:
        return await psycopg.AsyncConnection.connect(self.conninfo(role), autocommit=autocommit)


DatabaseMaker = Callable[..., Database]


@pytest.fixture(scope="session")
def postgres_major(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--postgres"))


@pytest.fixture(scope="session")
def bare_server(postgres_major: int) -> Iterator[Postgres]:
    """A running server, set up as a node sets it up, without Atoll's SQL."""
    folder = short_folder("atoll-pg-")
    folder.chmod(0o711)
    account = server_account()
    run = folder / "run"
    run.mkdir(mode=0o700)
    account.own(run)
    found = programs.reachable(postgres_major, account, folder / "programs")
    wishes = Wishes(postgres_major, run, None, 1024**3, is_durable=False)
    server = Postgres(folder / "data", found, account, wishes)
    try:
        with _running(server, folder / "postgres.log"):
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(server: Postgres, log: Path) -> Iterator[None]:
    asyncio.run(postgres.init(server))
    postgres.configure(server)
    command = server.leashed("postgres", "-D", str(server.data), *postgres_conf.command_line(server.wishes))
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _wait_until_it_answers(server, process, log)
        asyncio.run(postgres.set_up(server, APP_PASSWORD))
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)


def _wait_until_it_answers(server: Postgres, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            psycopg.connect(server.conninfo(database="postgres")).close()
            return
        except psycopg.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL does not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)


@pytest.fixture(scope="session")
def server(bare_server: Postgres) -> Postgres:
    """A running server whose database `atoll` has Atoll's SQL installed and serves as the template."""

    async def install() -> None:
        async with await bare_server.connect() as connection:
            await sql.install(connection)

    asyncio.run(install())
    return bare_server


@pytest.fixture
def make_database(server: Postgres) -> Iterator[DatabaseMaker]:
    """Makes fresh databases, as many as a test wants, and removes them."""
    with databases(server) as make:
        yield make


@pytest.fixture(scope="module")
def make_lasting_database(server: Postgres) -> Iterator[DatabaseMaker]:
    """The same for a whole module: for tests that run many examples on the same databases."""
    with databases(server) as make:
        yield make


@contextlib.contextmanager
def databases(server: Postgres) -> Iterator[DatabaseMaker]:
    made: list[str] = []
    numbers = itertools.count(1)

    def make(template: str = postgres_conf.DATABASE) -> Database:
        name = f"t{os.getpid()}_{secrets.token_hex(4)}_{next(numbers)}"
        _clone(server, name, template)
        made.append(name)
        return Database(server, name)

    yield make
    for name in made:
        _drop(server, name)


@pytest.fixture
def database(make_database: DatabaseMaker) -> Database:
    """A fresh database with Atoll installed."""
    return make_database()


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[Connection]:
    """A connection to the test's database as the owner, outside of any transaction."""
    async with await database.connect() as opened:
        yield opened


@pytest.fixture
async def app_connection(database: Database) -> AsyncIterator[Connection]:
    """A connection to the test's database as an application has it."""
    async with await database.connect(APP_ROLE) as opened:
        yield opened


def _clone(server: Postgres, name: str, template: str) -> None:
    new, old, app = (text.Identifier(part) for part in (name, template, APP_ROLE))
    with psycopg.connect(server.conninfo(database="postgres"), autocommit=True) as connection:
        # The workers of autovacuum and replication may look at the template for a moment.
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                connection.execute(
                    text.SQL("create database {} template {} strategy file_copy").format(new, old)
                )
                break
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
        connection.execute(text.SQL("grant create, connect on database {} to {}").format(new, app))


def _drop(server: Postgres, name: str) -> None:
    """Remove a database, with the subscriptions and slots that a test has left in it."""
    with psycopg.connect(server.conninfo(database=name), autocommit=True) as connection:
        query = "select subname from pg_subscription join pg_database d on d.oid = subdbid where datname = %s"
        for (subscription,) in connection.execute(query, [name]).fetchall():
            for statement in (
                "alter subscription {} disable",
                "alter subscription {} set (slot_name = none)",
                "drop subscription {}",
            ):
                connection.execute(text.SQL(statement).format(text.Identifier(subscription)))
    with psycopg.connect(server.conninfo(database="postgres"), autocommit=True) as connection:
        mine = "from pg_replication_slots where database = %s"
        connection.execute(f"select pg_terminate_backend(active_pid) {mine} and active", [name])
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (
            connection.execute(f"select {mine} and active", [name]).rowcount and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        connection.execute(f"select pg_drop_replication_slot(slot_name) {mine}", [name])
        connection.execute(text.SQL("drop database {} with (force)").format(text.Identifier(name)))
