"""The process of a node, wired in one place: PostgreSQL below, services on top, signals around both.

A service is made when the database is ready and runs until it is cancelled; PostgreSQL outlives every
service and is stopped last. SIGTERM and SIGINT stop in order; a second one stops PostgreSQL at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, cast

import psycopg
from starlette.routing import BaseRoute

from atoll import __version__, sql
from atoll.analytics.service import Questions
from atoll.domain.errors import DataError
from atoll.identity.certificate import Identity
from atoll.link.peers import Links
from atoll.node import credentials, keeping, listen
from atoll.node.applications import Connection, log_in
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.keeping import Keeper, Kept
from atoll.node.memory import find_trim, keep_trimmed, set_aside
from atoll.node.mesh import incarnation, membership, moving
from atoll.node.mesh.standing import Standing
from atoll.node.model_routes import model_routes
from atoll.node.models import Models
from atoll.node.numbers import node_numbers
from atoll.node.opening import Opened
from atoll.node.postgres.disk import DiskWatch
from atoll.node.postgres.server import Postgres
from atoll.node.questions import make_questions
from atoll.node.report import Readiness
from atoll.node.search import SearchIndexes, make_search
from atoll.node.values import Address
from atoll.observe.logs import RotatingFile
from atoll.observe.metrics import Metrics
from atoll.web.app import WebServer, make_app
from atoll.web.feed import feed_route
from atoll.web.questions import question_route
from atoll.web.search import search_route

SET_UP_PAUSE_SECONDS = 1.0
log = logging.getLogger(__name__)


class Service(Protocol):
    """Something that runs for as long as the node does."""

    async def run(self) -> None: ...


@dataclass(frozen=True)
class Node:
    """What a service is given."""

    home: Home
    settings: Settings
    postgres: Postgres
    readiness: Readiness
    metrics: Metrics
    disk: DiskWatch | None
    identity: Identity
    questions: Questions
    models: Models | None

    def meet(self, links: Links) -> None:
        """There are new links to peers."""
        self.questions.attach(links)
        if self.models is not None:
            self.models.attach(links)


ServiceMaker = Callable[[Node], Service]
SERVICES: tuple[ServiceMaker, ...] = (
    lambda node: Standing(node.home, node.settings, node.postgres, node.readiness, node.metrics, node.meet),
    lambda node: SearchIndexes(node.postgres),
)


class _Stopped(Exception):
    """Ends the group of services."""


async def run_node(
    opened: Opened, say: Callable[[str], None], makers: Sequence[ServiceMaker] = SERVICES
) -> None:
    """Run the node of an opened home until a signal ends it."""
    began = time.monotonic()
    settings = opened.settings
    with ExitStack() as stack:
        listener = None
        if settings.http is not None:
            listener = stack.enter_context(listen.bind(settings.http, "--http"))
        for address, flag in ((settings.link, "--link"), (settings.listen_postgres, "--listen-postgres")):
            if address is not None:
                listen.check_free(address, flag)
        output = RotatingFile(opened.home.logs / "postgres.log")
        stack.callback(output.close)
        stop = _stop_on_signals(stack)
        node, kept = await _build(opened, output, say)
        stop.keeper = kept.keeper
        http = listen.bound(listener) if listener is not None else None
        word = _word(node, http)
        node.readiness.watch(lambda reasons: opened.lock.tell({**word, "reasons": dict(reasons)}))

        async def bring_up(services: asyncio.TaskGroup) -> None:
            await _set_up(node, kept)
            for make in makers:
                services.create_task(make(node).run())
            if node.models is not None:
                services.create_task(node.models.run())
            say(f"READY {settings.name} in {time.monotonic() - began:.1f} s{_places(http, settings)}")

        supervising = asyncio.create_task(kept.keeper.run())
        set_aside()
        try:
            async with asyncio.TaskGroup() as services:
                services.create_task(_until_stopped(stop.asked, supervising))
                if node.disk is not None:
                    services.create_task(node.disk.run())
                services.create_task(keep_trimmed(find_trim()))
                if listener is not None:
                    app = make_app(lambda: node.readiness.reasons, node.metrics.registry, http_routes(node))
                    services.create_task(WebServer(app, listener).run())
                services.create_task(bring_up(services))
        except* _Stopped:
            pass
        finally:
            if not supervising.done():
                say("stopping")
            kept.keeper.stop()
            await supervising


def http_routes(node: Node) -> list[BaseRoute]:
    """What applications may ask over HTTP."""

    def password() -> str:
        return credentials.password(node.home)

    async def follow() -> Connection:
        return await log_in(node.home, node.settings, node.postgres, "atoll feed")

    models = node.models
    search = make_search(node.home, node.settings, node.postgres, models.embedder if models else None)
    routes: list[BaseRoute] = [
        question_route(node.questions.ask, password),
        feed_route(follow, password),
        search_route(search, password),
    ]
    return routes + model_routes(models, node.home, node.settings, search)


async def _build(opened: Opened, output: RotatingFile, say: Callable[[str], None]) -> tuple[Node, Kept]:
    """The database, made where it is missing, and everything around it."""
    home, settings = opened.home, opened.settings
    readiness = Readiness(postgres="PostgreSQL is starting", schema="the schema is not installed yet")
    metrics = Metrics()
    identity = membership.own_identity(home, settings)
    kept = await keeping.keep(opened, identity, output, readiness, say)
    # What the services ask of the bundled server, any server can do.
    server = cast("Postgres", kept.server)
    questions = make_questions(home, settings, server)
    models = Models(home, settings, server) if settings.models == "on" else None
    if models is not None:
        metrics.add(models.pipelines.numbers)
        metrics.add(models.job_worker.numbers)
        metrics.add(models.budgets.numbers)
        metrics.add(models.answers.numbers)
        metrics.add(models.limits.numbers)
    node = Node(home, settings, server, readiness, metrics, kept.disk, identity, questions, models)
    metrics.add(lambda: node_numbers(settings, readiness, kept.disk, kept.keeper))
    if models is not None:
        metrics.add(models.numbers)
        metrics.add(models.router.numbers)
    return node, kept


async def _set_up(node: Node, kept: Kept) -> None:
    """Roles, database and schema, tried again for as long as the database is in trouble."""
    while True:
        await kept.keeper.answers.wait()
        try:
            await kept.prepare()
            async with await node.postgres.connect() as connection:
                await sql.install(connection)
                identity = node.identity
                if moving.is_asked(node.home):
                    identity = await moving.move(connection, node.home)
                await membership.write_rows(connection, node.home, node.settings, identity)
                await incarnation.come_up(connection, node.home, node.settings)
                if node.models is None:
                    await connection.execute(sql.query("offers", "forget"), ([],))
                    await connection.execute(sql.query("room", "forget"), (True,))
        except psycopg.OperationalError as error:
            log.warning("could not set the database up: %s", error)
            node.readiness.hold("schema", "the schema could not be installed")
            await asyncio.sleep(SET_UP_PAUSE_SECONDS)
        except psycopg.Error as error:
            raise DataError(
                "schema-not-installed",
                "cannot install the schema",
                detail=f"PostgreSQL says: {error.diag.message_primary or error}.",
                hint="Undo by hand what was changed in the schema atoll, or restore the node.",
            ) from error
        else:
            node.readiness.clear("schema")
            return


async def _until_stopped(asked: asyncio.Event, supervising: asyncio.Task[None]) -> None:
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({waiting, supervising}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    raise _Stopped


@dataclass
class _Stop:
    asked: asyncio.Event
    keeper: Keeper | None = None

    def __call__(self) -> None:
        if self.asked.is_set() and self.keeper is not None:
            self.keeper.hurry()
        self.asked.set()


def _stop_on_signals(stack: ExitStack) -> _Stop:
    stop = _Stop(asyncio.Event())
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop)
        stack.callback(loop.remove_signal_handler, sign)
    return stop


def _word(node: Node, http: Address | None) -> dict[str, object]:
    """What other commands learn from the lock of the home."""
    link = node.settings.link
    return {
        "pid": os.getpid(),
        "version": __version__,
        "http": str(http) if http else None,
        "link": str(link) if link else None,
        "postgres_port": node.postgres.port,
    }


def _places(http: Address | None, settings: Settings) -> str:
    found = [f"http://{http}"] if http else []
    found += [f"link {settings.link}"] if settings.link else []
    found += [f"PostgreSQL {settings.listen_postgres}"] if settings.listen_postgres else []
    return "".join(f"  {place}" for place in found)
