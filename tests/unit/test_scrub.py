"""A file of a model that the disk spoilt is found and taken away; one that is well is left, for a day."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from atoll.registry import scrub as scrub_module
from atoll.registry.scrub import EVERY_SECONDS, Scrub, due
from atoll.registry.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(scrub_module, "BYTES_A_SECOND_MAX", 10**12)
    return Store(tmp_path / "models")


def put(store: Store, folder: Path, content: bytes) -> Path:
    (folder / "source").write_bytes(content)
    return store.path(store.take_in(folder / "source", "model.onnx").sha256)


async def test_a_damaged_file_is_taken_away_and_a_good_one_is_noted(store: Store, tmp_path: Path) -> None:
    good, bad = put(store, tmp_path, b"a" * 3_000_000), put(store, tmp_path, b"b" * 3_000_000)
    with bad.open("r+b") as file:
        file.seek(2_000_000)
        file.write(b"?")
    lost: list[str] = []
    scrub = Scrub(store, lost.append)
    for path in (good, bad):
        os.utime(path, (1, 1))
        await scrub.look_at(path)
    assert lost == [bad.name]
    assert not bad.exists()
    assert time.time() - good.stat().st_mtime < 60


def test_files_are_due_after_a_day_and_where_the_clock_was_wrong(store: Store, tmp_path: Path) -> None:
    now = 10 * EVERY_SECONDS
    ages = {"new": 10.0, "old": EVERY_SECONDS, "older": 2 * EVERY_SECONDS, "ahead": -100.0}
    paths = {name: put(store, tmp_path, name.encode()) for name in ages}
    for name, age in ages.items():
        os.utime(paths[name], (now - age, now - age))
    names = {path: name for name, path in paths.items()}
    found = due([*paths.values(), tmp_path / "gone"], now)
    assert [names[path] for path in found] == ["older", "old", "ahead"]
