"""What rows say of models, as what Serving is to keep: signed by a member, with files that are here.

A model is loaded with its adapters, those that are here and fit it. Fetching what is missing, and telling
anybody, is models.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from atoll import start
from atoll.domain.errors import AtollError, DataError
from atoll.domain.models import ADAPTERS_MAX
from atoll.identity import certificate
from atoll.node import upstream_keys
from atoll.node.borrowing import Borrowing
from atoll.node.engines import open_runtime, open_split, open_upstream, room_of
from atoll.node.home import Home
from atoll.registry import signing
from atoll.registry.adapters import check_fit
from atoll.registry.adding import estimate_memory, variant_name
from atoll.registry.formats.found import Found
from atoll.registry.formats.read import read_model
from atoll.registry.manifest import VERSION_LETTERS, File, Manifest, Upstream, Variant, from_json
from atoll.registry.store import Store
from atoll.router.placing.places import UPSTREAM
from atoll.runtimes.contract import Facts, Runtime
from atoll.serving.berth import Wanted

Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class Problem:
    """Why a model that is wanted cannot be had yet, and the files that it waits for."""

    version: str
    why: str
    missing: Sequence[File] = ()

    @property
    def state(self) -> str:
        return "fetching" if self.missing else "failed"


@dataclass(frozen=True)
class _Adapter:
    version: str
    file: Path
    memory_bytes: int


class Catalog:
    def __init__(self, home: Home, store: Store, memory_max_bytes: int, borrowing: Borrowing) -> None:
        self._home = home
        self._borrowing = borrowing
        self._store = store
        self._memory_max_bytes = memory_max_bytes
        self._start = [(model, read_model(model.path)) for model in start.start_models()]
        self._adapters: dict[str, _Adapter] = {}  # the last of each that could be used
        self.files: frozenset[str] = frozenset()  # of all that is wanted here
        self.lost: set[str] = set()  # those of them that were damaged on the disk

    def wanted(
        self, rows: Rows, adapters: Rows, before: Mapping[str, Wanted]
    ) -> tuple[dict[str, Wanted], dict[str, Problem]]:
        """What to keep. Where a version cannot be had yet, the one before goes on."""
        problems: dict[str, Problem] = {}
        self.files = frozenset()
        there = {row[0] for row in adapters}
        self._adapters = {name: one for name, one in self._adapters.items() if name in there}
        named = {row[0] for row in rows}
        wanted = {
            model.name: self._built_in(
                model, found, self._adapters_of(model.name, model.path, adapters, problems)
            )
            for model, found in self._start
            if model.name not in named
        }
        for model, version, variant, is_kept, options, *signed in rows:
            try:
                found = self._checked(model, version, *signed)
                if found.upstream is not None:
                    wanted[model] = self._upstream(found, found.upstream, is_kept, options)
                    continue
                form = found.choose(self._memory_max_bytes, _tokens(found.context_tokens, options), variant)
                if missing := self._missing(form):
                    problems[model] = self._fetching(version, missing)
                else:
                    entry = self._store.lay_out(form)
                    used = self._adapters_of(model, entry, adapters, problems)
                    wanted[model] = self._added(found, form, entry, is_kept, options, used)
            except AtollError as error:
                problems[model] = Problem(version, str(error))
            if model in problems and model in before:
                wanted[model] = before[model]
        return wanted, problems

    def _missing(self, form: Variant) -> Sequence[File]:
        missing = self._store.missing(form)
        files = {file.sha256 for file in form.files}
        self.files |= files
        self.lost -= files.difference(file.sha256 for file in missing)
        return missing

    def _fetching(self, version: str, missing: Sequence[File]) -> Problem:
        is_lost = any(file.sha256 in self.lost for file in missing)
        why = "a file was damaged on the disk" if is_lost else "its files are not here yet"
        return Problem(version, why, missing)

    def _checked(
        self, model: str, version: str, told: Mapping[str, Any], signature: str, pem: str
    ) -> Manifest:
        """The manifest, if it is what a member has signed and the row says."""
        authority = certificate.load_identity(self._home.keys).authority_pem
        signing.verify(told, signing.Signature(signature, pem), authority)
        manifest = from_json(told)
        if (manifest.name, manifest.version) != (model, version):
            raise DataError("manifest-malformed", "the manifest is of another model than its row says")
        return manifest

    def _adapters_of(
        self, base: str, file: Path, rows: Rows, problems: dict[str, Problem]
    ) -> dict[str, _Adapter]:
        """The adapters of a model, by their short names. What is wrong with one is its own problem."""
        found: dict[str, _Adapter] = {}
        for name, version, *signed in [row for row in rows if row[0].startswith(f"{base}:")]:
            try:
                if len(found) == ADAPTERS_MAX:
                    raise DataError("adapters-many", f"its model has {ADAPTERS_MAX} adapters already")
                (form,) = self._checked(name, version, *signed).variants
                if missing := self._missing(form):
                    problems[name] = self._fetching(version, missing)
                else:
                    latest = _Adapter(version, self._store.lay_out(form), form.memory_bytes)
                    check_fit(name, latest.file, file)
                    self._adapters[name] = latest
            except AtollError as error:
                problems[name] = Problem(version, " ".join(filter(None, (f"{error}.", error.detail))))
            usable = self._adapters.get(name)
            is_fit = usable is not None and (name not in problems or _fits(name, usable, file))
            if usable is not None and is_fit and len(found) < ADAPTERS_MAX:
                found[name.partition(":")[2]] = usable
        return found

    def _upstream(
        self, manifest: Manifest, upstream: Upstream, is_kept: bool, options: Mapping[str, Any]
    ) -> Wanted:
        """One of somebody else's server; with another key it is opened anew."""
        key = upstream_keys.key_for(self._home, manifest.name, upstream.base) if upstream.needs_key else None
        skills = frozenset(manifest.skills)
        price = list(upstream.price) if upstream.price is not None else None
        said = {"region": upstream.region, "price": price}
        return Wanted(
            manifest.name,
            manifest.version,
            UPSTREAM,
            {**said, **options, "key": hashlib.sha256((key or "").encode()).hexdigest()},
            Facts(skills, 0),
            is_kept,
            lambda: open_upstream(upstream, skills, key),
        )

    def _built_in(self, model: start.StartModel, found: Found, adapters: Mapping[str, _Adapter]) -> Wanted:
        """One that came with the package."""
        memory_bytes, token_bytes = estimate_memory(found)
        said = Facts(
            skills=found.skills,
            memory_bytes=memory_bytes + token_bytes * _tokens(found.context_tokens, {}),
            context_tokens=found.context_tokens,
            inputs=found.inputs,
            outputs=found.outputs,
        )
        version = model.sha256[:VERSION_LETTERS]
        return self._wanted(
            model.name, version, variant_name(found), found.format, model.path, False, {}, said, adapters
        )

    def _added(
        self,
        manifest: Manifest,
        form: Variant,
        entry: Path,
        is_kept: bool,
        options: Mapping[str, Any],
        adapters: Mapping[str, _Adapter],
    ) -> Wanted:
        said = Facts(
            skills=frozenset(manifest.skills),
            memory_bytes=form.needs(_tokens(manifest.context_tokens, options)),
            context_tokens=manifest.context_tokens,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
        )
        return self._wanted(
            manifest.name,
            manifest.version,
            form.name,
            form.format,
            entry,
            is_kept,
            options,
            said,
            adapters,
            form.token_bytes,
        )

    def _wanted(
        self,
        name: str,
        version: str,
        variant: str,
        form: str,
        entry: Path,
        is_kept: bool,
        options: Mapping[str, Any],
        said: Facts,
        adapters: Mapping[str, _Adapter],
        token_bytes: int = 0,
    ) -> Wanted:
        memory_bytes = said.memory_bytes + sum(one.memory_bytes for one in adapters.values())
        said = replace(said, memory_bytes=memory_bytes, adapters=tuple(adapters))
        files = {short: one.file for short, one in adapters.items()}
        versions = {short: one.version for short, one in adapters.items()}

        def open_here() -> Runtime:
            return open_runtime(self._home, name, form, entry, said, options, files)

        made = Wanted(name, version, variant, options, said, is_kept, open_here, versions)
        if options.get("split") is True and form == "gguf" and memory_bytes > self._memory_max_bytes:
            return self._split(made, entry, token_bytes, files)
        return made

    def _split(self, wanted: Wanted, entry: Path, token_bytes: int, adapters: Mapping[str, Path]) -> Wanted:
        """It takes all that models may take here, and the rest on other nodes."""
        said = replace(wanted.said, memory_bytes=self._memory_max_bytes)

        def open_with_others() -> Runtime:
            return open_split(
                self._home,
                self._borrowing,
                wanted.model,
                entry,
                wanted.said.memory_bytes,
                token_bytes,
                said,
                wanted.options,
                adapters,
            )

        return replace(wanted, said=said, open=open_with_others)


def _fits(name: str, adapter: _Adapter, base: Path) -> bool:
    try:
        check_fit(name, adapter.file, base)
    except AtollError:
        return False
    return True


def _tokens(trained: int | None, options: Mapping[str, Any]) -> int:
    """Of context, all callers together."""
    context, parallel = room_of(trained, options)
    return context * parallel
