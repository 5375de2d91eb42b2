"""Real PostgreSQL servers, made, configured and started by the node's own code, on Unix sockets in /tmp.

They are as durable as a node's. Each ends with this process, also when that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from atoll import sql
from atoll.node.account import server_account
from atoll.node.postgres import programs
from atoll.node.postgres import server as postgres
from atoll.node.postgres.conf import OWNER, Wishes
from atoll.node.postgres.server import Postgres

START_SECONDS_MAX = 60.0
CATCH_UP_SECONDS_MAX = 300.0
WAL_KEEP_BYTES = 4 * 1024**3
COLUMNS = "origin, seq, version, tbl, op, at, ats, prev, prevs, epochs, n, cols, vals, target, scope"
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class Server:
    """One server: a node's PostgreSQL without the node's process."""

    number: int
    postgres: Postgres

    def conninfo(self, database: str) -> str:
        return self.postgres.conninfo(OWNER, database)

    async def connect(self, database: str = "postgres") -> Connection:
        return await self.postgres.connect(database)

    async def run(self, database: str, *statements: str) -> None:
        async with await self.connect(database) as connection:
            for statement in statements:
                await connection.execute(trusted(statement))

    async def values(self, database: str, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        async with await self.connect(database) as connection:
            return await (await connection.execute(trusted(query), arguments or None)).fetchall()

    async def value(self, database: str, query: str, *arguments: object) -> Any:
        return (await self.values(database, query, *arguments))[0][0]

    async def pgbench(self, database: str, script: Path, *arguments: str) -> None:
        """Run a script; every client's every transaction has been committed when this returns."""
        command = [str(programs.bundled(self.postgres.programs.major).path("pgbench")), "--no-vacuum"]
        command += ["--file", str(script), *arguments, self.conninfo(database)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"pgbench ended with {process.returncode}:\n{output.decode(errors='replace')}")


def trusted(text: str) -> bytes:
    """A benchmark's own SQL, put together from its own constants."""
    return text.encode()


def make_folder() -> Path:
    """A folder that the user who runs PostgreSQL can pass."""
    folder = Path(tempfile.mkdtemp(prefix="atoll-bench-", dir="/tmp"))
    folder.chmod(0o711)
    return folder


def script(folder: str | Path, text: str) -> Path:
    """A script for pgbench, in the place of the one before."""
    path = Path(folder, "script.sql")
    path.write_text(text)
    return path


@contextlib.asynccontextmanager
async def servers(count: int, major: int = 18) -> AsyncIterator[list[Server]]:
    """Running servers, numbered from 1, removed afterwards."""
    folder = make_folder()
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(_server(folder, number, major))
                for number in range(1, count + 1)
            ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def _server(folder: Path, number: int, major: int) -> AsyncIterator[Server]:
    account = server_account()
    home = folder / str(number)
    run = home / "run"
    home.mkdir(mode=0o711)
    run.mkdir(mode=0o700)
    account.own(run)
    found = programs.reachable(major, account, folder / "programs")
    server = Postgres(home / "data", found, account, Wishes(major, run, None, WAL_KEEP_BYTES))
    await postgres.init(server)
    postgres.configure(server)
    process = await postgres.start(server)
    log = asyncio.create_task(_keep_log(process, home / "postgres.log"))
    try:
        await _wait_until_it_answers(server, process, home / "postgres.log")
        yield Server(number, server)
    finally:
        await _stop(process)
        await log


async def _stop(process: asyncio.subprocess.Process) -> None:
    # A sender waits for its receiver, which may have gone first: fast, then immediate, then not asked.
    for sign in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(sign)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
            return


async def _keep_log(process: asyncio.subprocess.Process, path: Path) -> None:
    assert process.stdout is not None
    with path.open("wb", buffering=0) as file:
        while block := await process.stdout.read(65536):
            file.write(block)


async def _wait_until_it_answers(server: Postgres, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(START_SECONDS_MAX):
        while True:
            try:
                await (await server.connect("postgres")).close()
                return
            except psycopg.OperationalError:
                if process.returncode is not None:
                    raise RuntimeError(f"PostgreSQL does not start: see {log}") from None
                await asyncio.sleep(0.05)


async def make_atoll(server: Server, database: str = "atoll") -> None:
    """A database with Atoll installed, that knows which node it is."""
    await server.run("postgres", f"create database {database}")
    async with await server.connect(database) as connection:
        await sql.install(connection)
        await connection.execute(
            "insert into atoll.self (atoll_id, number, name) values (gen_random_uuid(), %s, %s)",
            [server.number, f"n{server.number}"],
        )
        await connection.execute("select atoll.settle_in()")


async def link(to: Server, origin: Server, database: str = "atoll", streaming: str = "parallel") -> None:
    """Carry one server's own changes to another, as the nodes do it."""
    await origin.run(
        database,
        f"create publication to_{to.number} for table atoll.change ({COLUMNS}) "
        f"where (origin = {origin.number}) with (publish = 'insert')",
    )
    await subscribe(to, origin, database, f"to_{to.number}", f"origin = any, streaming = {streaming}")


async def subscribe(to: Server, origin: Server, database: str, publication: str, options: str) -> None:
    conninfo = origin.conninfo(database).replace("'", "''")
    name = f"{database}_from_{origin.number}_at_{to.number}"
    await to.run(
        database,
        f"create subscription {name} connection '{conninfo}' publication {publication} "
        f"with (binary = true, {options})",
    )
    await _wait_until_streaming(to, database, name)


async def _wait_until_streaming(to: Server, database: str, name: str) -> None:
    query = (
        "select count(*) from pg_subscription_rel r join pg_subscription s on s.oid = r.srsubid "
        "where s.subname = %s and r.srsubstate <> 'r'"
    )
    async with asyncio.timeout(START_SECONDS_MAX):
        while await to.value(database, query, name):
            await asyncio.sleep(0.05)


async def wait_until_caught_up(connection: Connection) -> None:
    """Wait until every subscriber of a database has applied and flushed what has been written to it."""
    found = await (await connection.execute("select pg_current_wal_lsn()")).fetchone()
    query = (
        "select count(*) from pg_replication_slots "
        "where database = current_database() and confirmed_flush_lsn < %s"
    )
    async with asyncio.timeout(CATCH_UP_SECONDS_MAX):
        while True:
            behind = await (await connection.execute(query, found)).fetchone()
            if behind == (0,):
                return
            await asyncio.sleep(0.005)
