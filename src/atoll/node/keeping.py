"""Which PostgreSQL a node has: the bundled one under supervision, or somebody else's, watched.

The rest of the node asks for connections and does not know the difference.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psycopg

from atoll.domain.errors import ConfigError
from atoll.identity.certificate import Identity
from atoll.link.tls import make_server_context
from atoll.node import credentials
from atoll.node.account import Account
from atoll.node.foreign import foreign_server
from atoll.node.mesh import moving
from atoll.node.opening import Opened
from atoll.node.postgres import preflight, programs
from atoll.node.postgres import server as bundled
from atoll.node.postgres.conf import Wishes
from atoll.node.postgres.disk import DiskWatch
from atoll.node.postgres.server import Postgres
from atoll.node.postgres.supervise import Supervisor
from atoll.node.postgres.watch import Watch
from atoll.node.report import Readiness
from atoll.observe.logs import RotatingFile

log = logging.getLogger(__name__)


class Server(Protocol):
    """A node's PostgreSQL, whoever runs it."""

    @property
    def socket(self) -> Path: ...

    @property
    def account(self) -> Account: ...

    @property
    def port(self) -> int: ...

    async def connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]: ...


class Keeper(Protocol):
    """Runs beside the server for as long as the node does."""

    answers: asyncio.Event

    @property
    def restarts(self) -> int: ...

    async def run(self) -> None: ...

    def stop(self) -> None: ...

    def hurry(self) -> None: ...


@dataclass(frozen=True)
class Kept:
    """A server, its keeper, and how it is made ready for the schema."""

    server: Server
    keeper: Keeper
    disk: DiskWatch | None
    prepare: Callable[[], Awaitable[None]]


async def keep(
    opened: Opened,
    identity: Identity,
    output: RotatingFile,
    readiness: Readiness,
    say: Callable[[str], None],
) -> Kept:
    """The server that the settings choose."""
    if opened.settings.database:
        return _keep_foreign(opened, identity, readiness)
    return await _keep_bundled(opened, output, readiness, say)


async def _keep_bundled(
    opened: Opened, output: RotatingFile, readiness: Readiness, say: Callable[[str], None]
) -> Kept:
    home, settings, account = opened.home, opened.settings, opened.account
    wishes = Wishes(settings.postgres, home.run, settings.listen_postgres, settings.wal_keep)
    found = programs.reachable(settings.postgres, account, home.programs)
    server = Postgres(home.data, found, account, wishes)
    if not (home.data / "PG_VERSION").exists():
        say(f"making the database (PostgreSQL {settings.postgres})")
    await bundled.init(server)
    disk = DiskWatch(server, settings.disk_floor, readiness, _free_bytes)
    keeper = Supervisor(server, output, readiness, disk)
    return Kept(server, keeper, disk, lambda: bundled.set_up(server, credentials.password(home)))


def _keep_foreign(opened: Opened, identity: Identity, readiness: Readiness) -> Kept:
    home, settings = opened.home, opened.settings
    if (home.data / "PG_VERSION").exists():
        raise ConfigError(
            "home-database",
            f"the home {home.path} has a database of its own",
            hint="Leave --database away, or join as a new node with a new home.",
        )
    server = foreign_server(home, settings)
    tls = make_server_context(identity) if server.door.has_tls else None
    log.info("PostgreSQL at %s is somebody else's: its disk and its log are not watched", server.place)

    async def prepare() -> None:
        async with await server.connect() as connection:
            facts = await preflight.look(connection, identity.me.atoll_id)
            if facts.belongs_to and moving.is_asked(home):  # it was cut off between database and keys
                facts = await preflight.look(connection, moving.called_to(home).me.atoll_id)
        findings = preflight.judge(facts)
        preflight.refuse_unfit(server.place, findings)
        for finding in findings:
            log.info("PostgreSQL at %s: %s: %s", server.place, finding.name, finding.problem)
        await server.set_up()

    return Kept(server, Watch(server, home, settings.gateway, tls, readiness), None, prepare)


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free
