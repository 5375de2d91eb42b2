"""What fetches models from hubs, registries and packages."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.registry.sources import client as client_module
from atoll.registry.sources.address import parse
from atoll.registry.sources.fetch import Fetched, Wish, fetch
from atoll.registry.store import Store

BODY = random.Random(7).randbytes(300_000)


@dataclass
class Fetcher:
    """Fetches into one store, and counts what the bar is told."""

    store: Store
    folder: Path
    environ: dict[str, str]
    total: int = 0
    counted: int = 0
    times: int = 0

    async def __call__(self, source: str, **wish: str) -> Fetched:
        address = parse(source)
        assert address is not None
        self.times += 1
        place = self.folder / f"model-{self.times}"
        place.mkdir()
        self.counted = 0
        return await fetch(address, self.store, place, Wish(**wish), self.environ, self._begin)

    def _begin(self, total: int) -> object:
        self.total = total

        def advance(count: int) -> None:
            self.counted += count

        return advance

    def part(self, body: bytes) -> Path:
        return self.store.part(hashlib.sha256(body).hexdigest())


@pytest.fixture
def fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    monkeypatch.setattr(client_module, "PAUSE_SECONDS_MIN", 0.01)
    monkeypatch.setattr(client_module, "PAUSE_SECONDS_MAX", 0.02)
    return Fetcher(Store(tmp_path / "models"), tmp_path, {})


@pytest.fixture
def full_disk(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage(fetcher.folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
