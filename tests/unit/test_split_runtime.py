"""A split model that does not start, for its file or for a lost worker; and the check of kept weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.domain.errors import ConfigError, DataError, LinkError
from atoll.runtimes.llama.split import runtime
from atoll.runtimes.llama.split.plugin import KEPT_IS_CHECKED, KEPT_IS_READ, with_check
from atoll.runtimes.llama.split.runtime import SplitRuntime
from atoll.runtimes.llama.split.shares import Share
from atoll.runtimes.llama.wants import Wants


@dataclass
class Borrowed:
    """Layers on another node; whether it is lost, and when, is said by the test."""

    loss: asyncio.Future[str]
    mine = Share("here", range(1))
    shares = ()
    workers = ()
    plugin = Path()

    async def lost(self) -> str:
        return await asyncio.shield(self.loss)


def failing(folder: Path, loss: asyncio.Future[str]) -> SplitRuntime:
    file = folder / "bad.gguf"
    file.write_bytes(b"no weights")

    @asynccontextmanager
    async def borrow() -> AsyncIterator[Borrowed]:
        yield Borrowed(loss)

    return SplitRuntime(file, Wants(), borrow, folder=folder, log=folder / "log")


async def test_a_file_that_is_no_good_is_to_blame_where_all_workers_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "HEARD_SECONDS_MAX", 0.01)
    starting = failing(tmp_path, asyncio.get_running_loop().create_future())
    with pytest.raises(DataError) as caught:
        await starting.start()
    assert caught.value.code == "model-unusable"
    await starting.stop()


async def test_a_lost_worker_is_to_blame_also_where_it_is_heard_of_after_the_engine_failed(
    tmp_path: Path,
) -> None:
    loss: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    starting = failing(tmp_path, loss)
    asyncio.get_running_loop().call_later(0.1, loss.set_result, "the layers on node b were lost")
    with pytest.raises(LinkError) as caught:
        await starting.start()
    assert (caught.value.code, caught.value.detail) == ("runtime-broken", "the layers on node b were lost.")
    await starting.stop()


def test_kept_weights_are_checked_in_the_one_place_where_they_are_read() -> None:
    checked = with_check(f"before\n{KEPT_IS_READ}after\n")
    assert checked == f"before\n{KEPT_IS_CHECKED}after\n"
    assert with_check(checked) == checked, "a build that is gone on with"
    for other in ("", KEPT_IS_READ * 2):
        with pytest.raises(ConfigError, match="its sources are not as known"):
            with_check(other)
