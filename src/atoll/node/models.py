"""The models of this node: what rows say that it is to have, made true.

It reads which models are wanted here, checks who signed them, fetches files that are missing from nodes that
have them, and tells Serving what to keep. How each model is, it writes down for those who ask in SQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from atoll.link.greeting import Purpose
from atoll.link.peers import Links
from atoll.node import credentials, upstream_keys
from atoll.node.applications import log_in
from atoll.node.borrowing import Borrowing
from atoll.node.catalog import Catalog, Problem, Rows
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.lending import Lending
from atoll.node.peers import Peers
from atoll.node.postgres.server import Postgres
from atoll.node.room import Room
from atoll.node.terms import read_terms
from atoll.observe.metrics import gauges
from atoll.pipelines.service import Pipelines
from atoll.registry.parcels import Parcels
from atoll.registry.scrub import Scrub
from atoll.registry.store import Store
from atoll.router.answers.book import Answers
from atoll.router.budgets.book import Budgets
from atoll.router.cascades.examples import Examples
from atoll.router.jobs.queue import JobQueue
from atoll.router.jobs.worker import JobWorker
from atoll.router.placing.places import Terms
from atoll.router.policy.key import NO_KEYS, Keys, from_row
from atoll.router.service import Router
from atoll.serving.berth import Wanted
from atoll.serving.decide import State
from atoll.serving.embedding import Embedder
from atoll.serving.service import Serving, Word
from atoll.sql import query
from atoll.sql.sessions import heard
from atoll.web.keys import APP, hash_key
from atoll.web.limits import Limits

NO_TERMS = Terms()
MODELS, OFFERS = "atoll_models", "atoll_offers"
OFFERS_SECONDS, OFFERS_PAUSE_SECONDS = 5.0, 0.2
LOOK_SECONDS = 60.0
MISSING_SECONDS = 5.0
AGAIN_SECONDS = 1.0
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


class Models:
    """Runs for as long as the node does."""

    def __init__(self, home: Home, settings: Settings, postgres: Postgres) -> None:
        self._home = home
        self._postgres = postgres
        self._store = Store(home.models)
        self._parcels = Parcels(self._store)
        self._borrowing = Borrowing(home, settings, postgres)
        self._catalog = Catalog(home, self._store, settings.models_memory, self._borrowing)
        self._scrub = Scrub(self._store, self._lose)
        self._key_hashes: dict[str, str] = {}
        self._keys: Keys = NO_KEYS
        self._changed = asyncio.Event()
        self._wanted_now = self._catalog.wanted((), (), {})[0]
        self._terms_now = _terms_of(self._wanted_now)
        self._read: Any = None
        self._asked: set[str] = set()  # by those who wait until what they wrote is gone by
        self._problems: dict[str, Problem] = {}
        self._told: dict[str, tuple[Any, ...]] = {}
        self.serving = Serving(settings.models_memory, changed=self._changed.set)
        self.peers = Peers(self.serving, settings, self._options)
        self.room = Room(self.serving, settings.models_memory, home.split)
        self._lending = Lending(home, settings.region, self.serving, postgres, settings.models_memory)
        self.budgets = Budgets(postgres.connect)
        self.embedder = Embedder(self.serving)
        self.examples = Examples(postgres.connect)
        self.answers = Answers(postgres.connect, self.embedder.vector)
        self.router = Router(
            self.serving,
            settings.region,
            self._terms,
            self.peers,
            budgets=self.budgets,
            answers=self.answers,
            examples=self.examples,
        )
        self.limits = Limits(self.budgets)
        self.jobs = JobQueue(postgres.connect)
        self.job_worker = JobWorker(self.serving, self.router, self.jobs, postgres.connect)
        self.pipelines = Pipelines(
            self.serving, lambda: log_in(home, settings, postgres, "atoll pipeline"), postgres.connect
        )

    def key_hashes(self) -> Mapping[str, str]:
        return self._key_hashes

    def keys(self) -> Keys:
        """What is said of each key, by its name."""
        return self._keys

    def attach(self, links: Links) -> None:
        """From now on there are peers."""
        self._parcels.attach(links)
        self.peers.attach(links)
        self.room.forget()
        self._borrowing.attach(links)
        links.serve_streams(self._lending.serve, Purpose.LAYERS)

    def numbers(self) -> Iterable[Metric]:
        words = self.serving.models()
        yield gauges(
            "atoll_model_loaded",
            "1 while the model is in memory.",
            "model",
            {word.model: word.state is State.READY for word in words},
        )
        yield gauges(
            "atoll_model_memory_bytes",
            "Memory of the model: measured while it is loaded, else estimated.",
            "model",
            {word.model: word.facts.memory_bytes for word in words},
        )
        yield gauges(
            "atoll_model_requests",
            "Requests that wait for the model or are being answered.",
            "model",
            {word.model: word.asking for word in words},
        )

    async def run(self) -> None:
        await self.serving.desire(self._wanted_now.values())
        async with asyncio.TaskGroup() as group:
            group.create_task(self.serving.run())
            group.create_task(self._follow())
            group.create_task(self._tell_changes())
            group.create_task(self.pipelines.run())
            group.create_task(self.job_worker.run())
            group.create_task(self.budgets.run())
            group.create_task(self.answers.run())
            group.create_task(self.examples.run())
            group.create_task(self._scrub.run(lambda: self._catalog.files))

    async def _follow(self) -> None:
        """Look at what is wanted, now and whenever rows that say so change here or arrive."""
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await connection.execute("listen atoll_models")
                    await connection.execute("listen atoll_offers")
                    while True:
                        await self._wait(connection, await self._look(connection))
            except (psycopg.Error, OSError) as error:
                log.debug("models wait for the database: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _look(self, connection: Connection) -> float:
        """Make true what is wanted now; in how many seconds to look again if nothing happens."""
        asked, self._asked = self._asked, set()
        keys = await connection.cursor(row_factory=dict_row).execute(query("keys", "all"))
        self._set_keys(await keys.fetchall())
        rows = await (await connection.execute(query("models", "wanted"))).fetchall()
        adapters = await (await connection.execute(query("models", "adapters"))).fetchall()
        routes = await connection.cursor(row_factory=dict_row).execute(query("routes", "all"))
        self.router.set_routes(await routes.fetchall())
        last = await (await connection.execute(query("routes", "heard"))).fetchone()
        self.router.set_heard(last[0] if last else None)
        if (await (await connection.execute(query("budgets", "there"))).fetchone()) == (True,):
            self.budgets.wake()
        read = rows, adapters, upstream_keys.changed_at(self._home)
        if read != self._read or any(problem.missing for problem in self._problems.values()):
            self._read = read
            await self._want(rows, adapters)
        for token in asked:
            await connection.execute(query("nodes", "settled"), (token,))
        await self.peers.read(connection)
        missing = [file for problem in self._problems.values() for file in problem.missing]
        if await self._parcels.fetch(missing):
            return 0.0  # more is on its way
        return MISSING_SECONDS if missing else LOOK_SECONDS

    def _set_keys(self, rows: Sequence[Mapping[str, Any]]) -> None:
        good = {row["sha256"]: row["name"] for row in rows if row["sha256"] is not None}
        self._key_hashes = {hash_key(credentials.password(self._home)): APP} | good
        self._keys = {row["name"]: from_row(row) for row in rows}
        self.router.set_keys(self._keys)
        self.limits.set_keys(self._keys)

    async def _wait(self, connection: Connection, seconds: float) -> None:
        """Until models are to be looked at again. Meanwhile nodes tell each other what they offer."""
        loop = asyncio.get_running_loop()
        end, told = loop.time() + seconds, set[str]()
        while MODELS not in told and (left := end - loop.time()) > 0:
            await self.peers.tell(connection)
            await self.room.tell(connection)
            pause = min(left, OFFERS_SECONDS)
            notes = await heard(connection, pause)
            self._asked |= {note.payload for note in notes if note.channel == MODELS and note.payload}
            told = {note.channel for note in notes}
            if told == {OFFERS}:
                await asyncio.sleep(OFFERS_PAUSE_SECONDS)  # more are on their way where one is
                await self.peers.read(connection)

    def _options(self) -> dict[str, Mapping[str, Any]]:
        return {model: one.options for model, one in self._wanted_now.items()}

    def _terms(self, model: str) -> Terms:
        """What rows say of a model here."""
        return self._terms_now.get(model, NO_TERMS)

    async def _want(self, rows: Rows, adapters: Rows) -> None:
        self._wanted_now, self._problems = await asyncio.to_thread(
            self._catalog.wanted, rows, adapters, self._wanted_now
        )
        self._terms_now = _terms_of(self._wanted_now)
        await self.serving.desire(self._wanted_now.values())
        self._changed.set()

    def _lose(self, sha256: str) -> None:
        """A file that was here is no good any more: look anew at what is wanted."""
        self._catalog.lost.add(sha256)
        self._read = None

    async def _tell_changes(self) -> None:
        """Write down how the models are, where that has changed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            states: dict[str, tuple[Any, ...]] = {
                word.model: (
                    word.version,
                    word.variant,
                    str(word.state),
                    word.problem,
                    word.facts.memory_bytes,
                    word.facts.details.get("split"),
                )
                for word in self.serving.models()
            }
            states |= {
                f"{word.model}:{name}": (version, None, _adapter_state(word, name, version), None, None, None)
                for word in self.serving.models()
                for name, version in word.adapters.items()
            }
            states |= {
                model: (one.version, None, one.state, one.why, None, None)
                for model, one in self._problems.items()
            }
            if states == self._told:
                continue
            try:
                async with await self._postgres.connect() as connection:
                    for model, told in states.items():
                        if self._told.get(model) != told:
                            names = ("version", "variant", "state", "problem", "memory_bytes", "split")
                            values = {"model": model, **dict(zip(names, told, strict=True))}
                            await connection.execute(query("models", "say_state"), values)
                    await connection.execute(query("models", "forget_states"), (list(states),))
                self._told = states
            except (psycopg.Error, OSError) as error:
                log.debug("could not say how models are: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._changed.set()


def _terms_of(wanted: Mapping[str, Wanted]) -> dict[str, Terms]:
    """Looked up with every request that is routed, so read only once."""
    return {
        name: read_terms(one.variant, one.said.context_tokens, one.options) for name, one in wanted.items()
    }


def _adapter_state(word: Word, name: str, version: str) -> str:
    """How its model is; while that is loaded anew with it, it is being loaded."""
    is_late = word.state is State.READY and word.loaded_adapters.get(name) != version
    return str(State.LOADING if is_late else word.state)
