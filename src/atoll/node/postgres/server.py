"""One PostgreSQL server: made, configured, started and stopped. When to do which is the supervisor's.

The server is the bundled one, run by an account that is not root. It listens on a Unix socket in a private
folder; the node itself comes in as the owner by the kernel's word for who it is, so no password of the
owner exists.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.resources
import os
import shutil
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from atoll.domain.errors import ConfigError
from atoll.node.account import Account, current_account
from atoll.node.postgres import conf
from atoll.node.postgres.conf import DATABASE, OWNER, Wishes
from atoll.node.postgres.programs import Programs

INITDB_SECONDS_MAX = 300.0
CONNECT_SECONDS_MAX = 5
LEASH = Path(__file__).with_name("leash.py")


@dataclass(frozen=True)
class Postgres:
    """A server: its data folder, the programs that run it, the account that they run as."""

    data: Path
    programs: Programs
    account: Account
    wishes: Wishes

    @property
    def socket(self) -> Path:
        return self.wishes.run / f".s.PGSQL.{self.wishes.port}"

    @property
    def port(self) -> int:
        return self.wishes.port

    def conninfo(self, role: str = OWNER, database: str = DATABASE) -> str:
        return psycopg.conninfo.make_conninfo(
            host=str(self.wishes.run),
            port=self.wishes.port,
            user=role,
            dbname=database,
            application_name="atoll",
        )

    async def connect(self, database: str = DATABASE) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        """A connection as the owner, outside of any transaction; it may write on a full disk too."""
        return await psycopg.AsyncConnection.connect(
            self.conninfo(database=database),
            autocommit=True,
            connect_timeout=CONNECT_SECONDS_MAX,
            options="-c default_transaction_read_only=off",
        )

    def leashed(self, program: str, *arguments: str, sign: signal.Signals = signal.SIGINT) -> list[str]:
        """The command line that runs a program as the account, and ends it when this process ends."""
        account = self.account
        groups = ",".join(str(group) for group in account.groups)
        who = [str(os.getpid()), str(int(sign)), str(account.uid), str(account.gid), groups, "--"]
        run = str(self.programs.path(program))
        return [sys.executable, "-I", "-S", str(LEASH), *who, run, *arguments]


async def init(postgres: Postgres) -> bool:
    """Make the data folder unless it is there; false if it was. A half-made one is removed first."""
    if (postgres.data / "PG_VERSION").exists():
        return False
    unfinished = postgres.data.with_name("data.new")
    for attempt in (["--lc-collate=C", "--lc-ctype=C.UTF-8"], ["--no-locale"]):
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        postgres.account.own(unfinished)
        code, output = await _initdb(postgres, unfinished, attempt)
        if code == 0:
            unfinished.rename(postgres.data)
            return True
        if "locale" not in output:
            break
    shutil.rmtree(unfinished, ignore_errors=True)
    raise ConfigError(
        "initdb-failed",
        "could not make the database",
        detail=output.strip().splitlines()[-1] if output.strip() else f"initdb ended with {code}.",
        hint=f"Check that the disk of {postgres.data.parent} has room and is writable.",
    )


async def _initdb(postgres: Postgres, data: Path, locale: list[str]) -> tuple[int, str]:
    options = ["--username", OWNER, "--encoding", "UTF8", "--data-checksums", "--auth", "reject", *locale]
    options += ["--no-instructions", *([] if postgres.wishes.is_durable else ["--no-sync"])]
    command = postgres.leashed("initdb", "-D", str(data), *options, sign=signal.SIGTERM)
    process = await asyncio.create_subprocess_exec(
        *command, cwd="/", env=_environment(), stdin=DEVNULL, stdout=PIPE, stderr=STDOUT
    )
    try:
        async with asyncio.timeout(INITDB_SECONDS_MAX):
            output, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return process.returncode or 0, output.decode(errors="replace")


def configure(postgres: Postgres, is_disk_full: bool = False) -> None:
    """Write the configuration anew, whole."""
    users = (postgres.account.name, current_account().name)
    texts = {
        "postgresql.conf": "include = 'atoll.conf'\n",
        "atoll.conf": conf.conf_text(postgres.wishes),
        "pg_hba.conf": conf.hba_text(postgres.wishes),
        "pg_ident.conf": conf.ident_text(users),
    }
    for name, text in texts.items():
        write_in_place(postgres, name, text.encode())
    write_in_place(postgres, conf.DISK_FILE, conf.disk_text(is_disk_full))


def write_in_place(postgres: Postgres, name: str, text: bytes) -> None:
    """Overwrite a file where that changes it, without needing room for a second one."""
    path = postgres.data / name
    if path.exists() and path.read_bytes() == text:
        return
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.pwrite(descriptor, text, 0)
        os.ftruncate(descriptor, len(text))
    finally:
        os.close(descriptor)
    postgres.account.own(path)


async def start(postgres: Postgres) -> Process:
    """Start the server; it is ready some time later. What it says comes out of the process's stdout."""
    command = postgres.leashed("postgres", "-D", str(postgres.data), *conf.command_line(postgres.wishes))
    # A session of its own: Ctrl-C in the terminal is for the node, which then stops the server in order.
    return await asyncio.create_subprocess_exec(
        *command,
        cwd="/",
        env=_environment(),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )


async def set_up(postgres: Postgres, password: str) -> None:
    """Bring the database and the roles to what they should be."""
    async with await postgres.connect("postgres") as connection:
        cursor = await connection.execute("select from pg_database where datname = %s", [DATABASE])
        if cursor.rowcount == 0:
            await connection.execute("create database atoll")
    async with await postgres.connect() as connection:
        await connection.execute("select set_config('atoll.app_password', %s, false)", [password])
        text = importlib.resources.files("atoll.node.postgres").joinpath("roles.sql").read_bytes()
        await connection.execute(text)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC", "PGOPTIONS": ""}
