"""The models of this node: what rows say that it is to have, made true.

It reads which models are wanted here, checks who signed them, fetches files that are missing from nodes that
have them, and tells Serving what to keep. How each model is, it writes down for those who ask in SQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from prometheus_client.core import Metric
from psycopg import AsyncConnection

from atoll import start
from atoll.domain.errors import AtollError
from atoll.identity import certificate
from atoll.link.peers import Links
from atoll.node import credentials
from atoll.node.config import Settings
from atoll.node.engines import at_once, open_runtime
from atoll.node.home import Home
from atoll.node.postgres.server import Postgres
from atoll.observe.metrics import gauges
from atoll.registry import signing
from atoll.registry.adding import estimate_memory
from atoll.registry.formats.read import read_model
from atoll.registry.manifest import VERSION_LETTERS, Manifest, Variant, from_json
from atoll.registry.parcels import Parcels
from atoll.registry.store import Store
from atoll.runtimes.contract import Facts, Skill, TensorFacts
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
    """Why a model that is wanted cannot be had yet."""

    version: str
    state: str
    why: str


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
        self._problems: dict[str, _Problem] = {}
        self._variants: dict[str, str] = {}
        self._told: dict[str, tuple[Any, ...]] = {}
        self.serving = Serving(self._memory_max_bytes, changed=self._changed.set)

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
        await self.serving.desire(self._start_models({}))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.serving.run())
            group.create_task(self._follow())
            group.create_task(self._tell_changes())

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
        wanted: dict[str, Wanted] = {}
        problems: dict[str, _Problem] = {}
        for model, version, variant, is_kept, options, manifest, signature, pem in rows:
            try:
                signed = signing.Signature(signature, pem)
                chosen = self._checked(manifest, signed, model, version)
                form = chosen.choose(self._memory_max_bytes, variant)
                if self._store.missing(form):
                    problems[model] = _Problem(version, "fetching", "its files are not here yet")
                    continue
                wanted[model] = self._wanted(chosen, form, is_kept, options)
                self._variants[model] = form.name
            except AtollError as error:
                problems[model] = _Problem(version, "failed", str(error))
        for model in self._problems.keys() - problems.keys():
            self._told.pop(model, None)
        self._problems = problems
        await self.serving.desire([*wanted.values(), *self._start_models(wanted)])
        self._changed.set()
        return await self._fetch(rows, problems)

    def _checked(
        self, told: Mapping[str, Any], signed: signing.Signature, model: str, version: str
    ) -> Manifest:
        """The manifest, if it is what a member has signed and the row says."""
        authority = certificate.load_identity(self._home.keys).authority_pem
        signing.verify(told, signed, authority)
        manifest = from_json(told)
        if (manifest.name, manifest.version) != (model, version):
            raise AtollError("manifest-malformed", "the manifest is of another model than its row says")
        return manifest

    def _wanted(self, manifest: Manifest, form: Variant, is_kept: bool, options: Mapping[str, Any]) -> Wanted:
        home, model = self._home, manifest.name

        def tensors(told: tuple[Mapping[str, Any], ...]) -> tuple[TensorFacts, ...]:
            return tuple(TensorFacts(one["name"], one["datatype"], tuple(one["shape"])) for one in told)

        said = Facts(
            skills=frozenset(Skill(one) for one in manifest.skills),
            memory_bytes=form.memory_bytes,
            context_tokens=manifest.context_tokens,
            inputs=tensors(manifest.inputs),
            outputs=tensors(manifest.outputs),
        )
        entry = self._store.lay_out(form)
        return Wanted(
            model,
            manifest.version,
            said,
            at_once(form.format, options),
            is_kept,
            lambda: open_runtime(home, model, form.format, entry, said, options),
        )

    def _start_models(self, wanted: Mapping[str, Wanted]) -> list[Wanted]:
        """Those that came with the package, where no other has their name."""
        return [self._start_model(model) for model in start.start_models() if model.name not in wanted]

    def _start_model(self, model: start.StartModel) -> Wanted:
        home, found = self._home, read_model(model.path)
        said = Facts(
            skills=frozenset(Skill(one) for one in model.skills),
            memory_bytes=estimate_memory(found),
            context_tokens=found.context_tokens,
            inputs=tuple(TensorFacts(one.name, one.datatype, one.shape) for one in found.inputs),
            outputs=tuple(TensorFacts(one.name, one.datatype, one.shape) for one in found.outputs),
        )
        return Wanted(
            model.name,
            model.sha256[:VERSION_LETTERS],
            said,
            at_once(found.format, {}),
            False,
            lambda: open_runtime(home, model.name, found.format, model.path, said, {}),
        )

    async def _fetch(self, rows: list[tuple[Any, ...]], problems: Mapping[str, _Problem]) -> bool:
        """Get what is missing from a peer, one file after the other, a stretch of time at most."""
        has_come = False
        for model, _, variant, *_, manifest, _, _ in rows:
            if model in problems and problems[model].state == "fetching":
                form = from_json(manifest).choose(self._memory_max_bytes, variant)
                has_come = await self._parcels.fetch(self._store.missing(form)) or has_come
        return has_come

    async def _tell_changes(self) -> None:
        """Write down how the models are, where that has changed."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            states: dict[str, tuple[Any, ...]] = {
                word.model: (
                    word.version,
                    self._variants.get(word.model),
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
