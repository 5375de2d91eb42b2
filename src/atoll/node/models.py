"""The models of this node: what rows say that it is to have, made true.

It reads which models are wanted here, checks who signed them, fetches files that are missing from nodes that
have them, and tells Serving what to keep. How each model is, it writes down for those who ask in SQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg import AsyncConnection

from atoll import start
from atoll.domain.errors import AtollError, DataError
from atoll.identity import certificate
from atoll.link.peers import Links
from atoll.node import credentials
from atoll.node.applications import log_in
from atoll.node.config import Settings
from atoll.node.engines import open_runtime, room_of
from atoll.node.home import Home
from atoll.node.postgres.server import Postgres
from atoll.observe.metrics import gauges
from atoll.pipelines.service import Pipelines
from atoll.registry import signing
from atoll.registry.adding import estimate_memory, variant_name
from atoll.registry.formats.read import read_model
from atoll.registry.manifest import VERSION_LETTERS, File, Manifest, Variant, from_json
from atoll.registry.parcels import Parcels
from atoll.registry.store import Store
from atoll.runtimes.contract import Facts
from atoll.serving.berth import Wanted
from atoll.serving.decide import State
from atoll.serving.service import Serving
from atoll.sql import query
from atoll.web.keys import hash_key

LOOK_SECONDS = 5.0
AGAIN_SECONDS = 1.0
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]


@dataclass(frozen=True)
class _Problem:
    """Why a model that is wanted cannot be had yet, and the files that it waits for."""

    version: str
    why: str
    missing: Sequence[File] = ()

    @property
    def state(self) -> str:
        return "fetching" if self.missing else "failed"


class Models:
    """Runs for as long as the node does."""

    def __init__(self, home: Home, settings: Settings, postgres: Postgres) -> None:
        self._home = home
        self._postgres = postgres
        self._memory_max_bytes = settings.models_memory
        self._store = Store(home.models)
        self._parcels = Parcels(self._store)
        self._key_hashes: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._start = {model.name: self._start_model(model) for model in start.start_models()}
        self._wanted_now = dict(self._start)
        self._rows: list[tuple[Any, ...]] | None = None
        self._problems: dict[str, _Problem] = {}
        self._told: dict[str, tuple[Any, ...]] = {}
        self.serving = Serving(self._memory_max_bytes, changed=self._changed.set)
        self.pipelines = Pipelines(
            self.serving, lambda: log_in(home, settings, postgres, "atoll pipeline"), postgres.connect
        )

    def key_hashes(self) -> Mapping[str, str]:
        return self._key_hashes

    def attach(self, links: Links) -> None:
        """From now on there are peers."""
        self._parcels.attach(links)

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
        await self.serving.desire(self._start.values())
        async with asyncio.TaskGroup() as group:
            group.create_task(self.serving.run())
            group.create_task(self._follow())
            group.create_task(self._tell_changes())
            group.create_task(self.pipelines.run())

    async def _follow(self) -> None:
        """Look at what is wanted, now and whenever it may have changed."""
        while True:
            try:
                async with await self._postgres.connect() as connection:
                    await connection.execute("listen atoll_models")
                    while True:
                        more_comes = await self._look(connection)
                        pause = 0.0 if more_comes else LOOK_SECONDS
                        async for _ in connection.notifies(timeout=pause, stop_after=1):
                            pass
            except (psycopg.Error, OSError) as error:
                log.debug("models wait for the database: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)

    async def _look(self, connection: Connection) -> bool:
        """Make true what is wanted now; says whether files are on their way."""
        hashes = await (await connection.execute(query("keys", "hashes"))).fetchall()
        self._key_hashes = {hash_key(credentials.password(self._home)): "app"} | dict(hashes)
        rows = await (await connection.execute(query("models", "wanted"))).fetchall()
        if rows != self._rows or any(problem.missing for problem in self._problems.values()):
            self._rows = rows
            await self._want(rows)
        missing = [file for problem in self._problems.values() for file in problem.missing]
        return await self._parcels.fetch(missing)

    async def _want(self, rows: list[tuple[Any, ...]]) -> None:
        """Tell Serving. Where a version cannot be had yet, the one before goes on."""
        wanted = dict(self._start)
        problems: dict[str, _Problem] = {}
        for model, version, variant, is_kept, options, manifest, signature, pem in rows:
            wanted.pop(model, None)
            try:
                found = self._checked(manifest, signing.Signature(signature, pem), model, version)
                form = found.choose(self._memory_max_bytes, _tokens(found.context_tokens, options), variant)
                if missing := self._store.missing(form):
                    problems[model] = _Problem(version, "its files are not here yet", missing)
                else:
                    wanted[model] = self._wanted(found, form, is_kept, options)
            except AtollError as error:
                problems[model] = _Problem(version, str(error))
            if model in problems and model in self._wanted_now:
                wanted[model] = self._wanted_now[model]
        self._problems, self._wanted_now = problems, wanted
        await self.serving.desire(wanted.values())
        self._changed.set()

    def _checked(
        self, told: Mapping[str, Any], signed: signing.Signature, model: str, version: str
    ) -> Manifest:
        """The manifest, if it is what a member has signed and the row says."""
        authority = certificate.load_identity(self._home.keys).authority_pem
        signing.verify(told, signed, authority)
        manifest = from_json(told)
        if (manifest.name, manifest.version) != (model, version):
            raise DataError("manifest-malformed", "the manifest is of another model than its row says")
        return manifest

    def _wanted(self, manifest: Manifest, form: Variant, is_kept: bool, options: Mapping[str, Any]) -> Wanted:
        said = Facts(
            skills=frozenset(manifest.skills),
            memory_bytes=form.needs(_tokens(manifest.context_tokens, options)),
            context_tokens=manifest.context_tokens,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
        )
        entry = self._store.lay_out(form)
        return Wanted(
            manifest.name,
            manifest.version,
            form.name,
            options,
            said,
            is_kept,
            lambda: open_runtime(self._home, manifest.name, form.format, entry, said, options),
        )

    def _start_model(self, model: start.StartModel) -> Wanted:
        """One that came with the package."""
        found = read_model(model.path)
        memory_bytes, token_bytes = estimate_memory(found)
        said = Facts(
            skills=found.skills,
            memory_bytes=memory_bytes + token_bytes * _tokens(found.context_tokens, {}),
            context_tokens=found.context_tokens,
            inputs=found.inputs,
            outputs=found.outputs,
        )
        return Wanted(
            model.name,
            model.sha256[:VERSION_LETTERS],
            variant_name(found),
            {},
            said,
            False,
            lambda: open_runtime(self._home, model.name, found.format, model.path, said, {}),
        )

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
                )
                for word in self.serving.models()
            }
            states |= {
                model: (one.version, None, one.state, one.why, None) for model, one in self._problems.items()
            }
            if states == self._told:
                continue
            try:
                async with await self._postgres.connect() as connection:
                    for model, told in states.items():
                        if self._told.get(model) != told:
                            names = ("version", "variant", "state", "problem", "memory_bytes")
                            values = {"model": model, **dict(zip(names, told, strict=True))}
                            await connection.execute(query("models", "say_state"), values)
                    await connection.execute(query("models", "forget_states"), (list(states),))
                self._told = states
            except (psycopg.Error, OSError) as error:
                log.debug("could not say how models are: %s", error)
                await asyncio.sleep(AGAIN_SECONDS)
                self._changed.set()


def _tokens(trained: int | None, options: Mapping[str, Any]) -> int:
    """Of context, all callers together."""
    context, parallel = room_of(trained, options)
    return context * parallel
