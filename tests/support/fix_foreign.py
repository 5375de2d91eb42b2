"""PostgreSQL run as somebody else's server: TCP on loopback, passwords, a role with few rights.

The programs are the bundled ones, but nothing of Atoll starts, stops or configures this server. Its role
`manager` is no superuser; it has what managed services give to the person who rents the server.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from atoll.demo.ports import free_ports
from atoll.node.account import server_account
from atoll.node.postgres import programs
from atoll.node.postgres.conf import Wishes
from atoll.node.postgres.server import Postgres
from support.folders import short_folder

DEADLINE_SECONDS = 90.0
PASSWORD = "only for tests: 'quoted' \\ and so on"
DATABASE = "shop"
MANAGER = "manager"
MANAGED = """
    create role manager login createdb createrole replication password {password};
    grant pg_create_subscription, pg_monitor, pg_signal_backend to manager;
    create database shop owner manager template template0 encoding 'UTF8' lc_collate 'C' lc_ctype 'C'
"""
SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_worker_processes": "30",
    "max_logical_replication_workers": "20",
    "max_slot_wal_keep_size": "1GB",
    "fsync": "off",
    "wal_retrieve_retry_interval": "200ms",
}


@dataclass
class Foreign:
    """A server that is not Atoll's."""

    postgres: Postgres
    folder: Path
    port: int
    settings: Mapping[str, str]
    _process: subprocess.Popen[bytes] | None = field(default=None)

    def dsn(self, user: str = MANAGER, database: str = DATABASE, **more: object) -> str:
        told: dict[str, Any] = {"user": user, "password": PASSWORD, "dbname": database, **more}
        return make_conninfo(host="127.0.0.1", port=self.port, sslmode="disable", **told)

    def start(self) -> None:
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        place = [
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"port={self.port}",
            "-c",
            "unix_socket_directories=",
        ]
        command = self.postgres.leashed("postgres", "-D", str(self.postgres.data), *place, *settings)
        with (self.folder / "postgres.log").open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                psycopg.connect(self.dsn("postgres", "postgres")).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server does not start: {error}\n{self.log()}")
                time.sleep(0.05)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(DEADLINE_SECONDS)
        finally:
            self._process.kill()
            self._process = None

    def log(self) -> str:
        return (self.folder / "postgres.log").read_text(errors="replace")

    def run(
        self, statement: str, *values: object, user: str = MANAGER, database: str = DATABASE
    ) -> list[Any]:
        """What a role does on this server; each call is a transaction."""
        with psycopg.connect(self.dsn(user, database), autocommit=True) as connection:
            cursor = connection.execute(cast("LiteralString", statement), values or None)
            return cursor.fetchall() if cursor.description is not None else []

    def superuser(self, statement: str, database: str = DATABASE) -> list[Any]:
        return self.run(statement, user="postgres", database=database)


@contextlib.contextmanager
def foreign_server(major: int, **settings: str) -> Iterator[Foreign]:
    """A running server with the database `shop` and its owner, the role `manager`."""
    folder = short_folder("atoll-foreign-")
    folder.chmod(0o711)
    account = server_account()
    found = programs.reachable(major, account, folder / "programs")
    made = Postgres(folder / "data", found, account, Wishes(major, folder, None, 0, is_durable=False))
    foreign = Foreign(made, folder, free_ports(1)[0], {**SETTINGS, **settings})
    try:
        _init(foreign)
        foreign.start()
        for statement in MANAGED.split(";"):
            quoted = "'" + PASSWORD.replace("'", "''") + "'"
            foreign.superuser(statement.format(password=quoted), "postgres")
        yield foreign
    finally:
        foreign.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _init(foreign: Foreign) -> None:
    postgres = foreign.postgres
    postgres.data.mkdir(mode=0o700)
    postgres.account.own(postgres.data)
    secret = foreign.folder / "secret"
    secret.write_text(PASSWORD + "\n")
    postgres.account.own(secret)
    options = [
        "-U",
        "postgres",
        "--auth",
        "scram-sha-256",
        "--pwfile",
        str(secret),
        "--no-sync",
        "--locale",
        "C",
    ]
    command = postgres.leashed("initdb", "-D", str(postgres.data), "--encoding", "UTF8", *options)
    subprocess.run(command, cwd="/", check=True, capture_output=True, timeout=DEADLINE_SECONDS)


ForeignMaker = Callable[..., Foreign]


@pytest.fixture
def make_foreign() -> Iterator[ForeignMaker]:
    """Starts servers that are somebody else's, each with settings of its own."""
    with contextlib.ExitStack() as stack:
        yield lambda major=18, **settings: stack.enter_context(foreign_server(major, **settings))


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    """One server for a module."""
    with foreign_server(18) as made:
        yield made
