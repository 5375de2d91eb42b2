"""A model from a hub comes whole, as its source says, or not at all; and what came is kept."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator

import pytest

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.registry.sources import client as client_module
from atoll.registry.sources import download as download_module
from atoll.registry.sources.choose import Offer
from support.fix_sources import BODY, Fetcher
from support.hubs import COMMIT, TOKEN, Hub, a_hub


@pytest.fixture
async def hub(fetcher: Fetcher) -> AsyncIterator[Hub]:
    async with a_hub({"tiny-Q4_K_M.gguf": BODY, "tiny-F16.gguf": BODY * 2, "run.py": b"evil"}) as found:
        fetcher.environ["HF_ENDPOINT"] = found.base
        yield found


async def test_a_file_comes_by_a_redirect_and_its_origin_is_told(hub: Hub, fetcher: Fetcher) -> None:
    found = await fetcher("hf:reef/tiny")
    assert found.path.read_bytes() == BODY
    assert found.path.name == "tiny-Q4_K_M.gguf"
    assert found.origin == f"hf:reef/tiny@{COMMIT} from {hub.base}"
    assert found.licence == "mit"
    assert (fetcher.total, fetcher.counted) == (len(BODY), len(BODY))
    assert all("run.py" not in request.path for request in hub.requests)


async def test_what_is_there_is_not_fetched_again(hub: Hub, fetcher: Fetcher) -> None:
    await fetcher("hf:reef/tiny")
    hub.requests.clear()
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    assert len(hub.requests) == 1, "only the listing"
    assert fetcher.counted == len(BODY)


async def test_a_cut_in_the_middle_is_gone_on_from(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.cut_after, hub.mischief.cuts = 100_000, 2
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    assert len(hub.ranges()) >= 2, "after each cut it asked for the rest"
    assert all(int(asked[6:-1]) > 0 for asked in hub.ranges())
    assert fetcher.counted == len(BODY)


async def test_a_source_that_is_away_for_good_is_given_up_and_the_part_kept(
    hub: Hub, fetcher: Fetcher
) -> None:
    hub.mischief.cut_after, hub.mischief.cuts = 20_000, 1000
    with pytest.raises(LinkError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-away"
    size = fetcher.part(BODY).stat().st_size
    assert 0 < size < len(BODY)
    hub.mischief.cuts = 0
    hub.requests.clear()
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    assert hub.ranges()[0] == f"bytes={size}-"


async def test_who_stops_in_the_middle_keeps_what_came(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.silent_after = 100_000
    task = asyncio.create_task(fetcher("hf:reef/tiny"))
    while fetcher.counted < 50_000:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    size = fetcher.part(BODY).stat().st_size
    assert size >= 50_000
    hub.mischief.silent_after = None
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    assert set(hub.ranges()) == {f"bytes={size}-"}


async def test_a_server_that_falls_silent_is_asked_again(
    hub: Hub, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "SILENCE_SECONDS_MAX", 0.2)
    hub.mischief.silent_after = 100_000
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    assert hub.ranges()


async def test_a_busy_server_is_asked_again(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.busy = 3
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY


async def test_a_server_without_ranges_begins_anew(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.ignores_range = True
    hub.mischief.cut_after, hub.mischief.cuts = 100_000, 1
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY


async def test_a_file_that_is_not_what_its_hash_says_is_refused(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.changes = "tiny-Q4_K_M.gguf"
    with pytest.raises(LinkError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-damaged"
    assert not fetcher.store.path(hashlib.sha256(BODY).hexdigest()).exists()


async def test_a_stale_part_is_thrown_away_once(hub: Hub, fetcher: Fetcher) -> None:
    fetcher.part(BODY).write_bytes(b"?" * 1000)
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    assert fetcher.counted == len(BODY)
    shutil.rmtree(fetcher.folder / "models")
    fetcher.part(BODY).write_bytes(b"?" * 400_000)
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY, "one that is too long as well"


async def test_a_small_file_is_checked_by_gits_name_for_it(fetcher: Fetcher) -> None:
    files = {"model.onnx": BODY, "config.json": b'{"a": 1}' * 100, "tokenizer.json": b"{}"}
    async with a_hub(files) as hub:
        fetcher.environ["HF_ENDPOINT"] = hub.base
        hub.mischief.changes = "config.json"
        with pytest.raises(LinkError, match=r"config\.json"):
            await fetcher("hf:reef/tiny")
        hub.mischief.changes = None
        found = await fetcher("hf:reef/tiny")
        assert (found.path.parent / "config.json").read_bytes() == files["config.json"]


async def test_a_body_without_an_end_is_cut_off(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.longer = "tiny-Q4_K_M.gguf"
    with pytest.raises(LinkError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-damaged"
    assert "longer" in str(raised.value.detail)


async def test_redirects_without_an_end_are_given_up(hub: Hub, fetcher: Fetcher) -> None:
    hub.mischief.loops = True
    with pytest.raises(DataError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-redirects"
    assert len(hub.requests) < 20


async def test_a_token_goes_to_the_hub_and_to_nobody_else(hub: Hub, fetcher: Fetcher) -> None:
    hub.is_private = True
    with pytest.raises(PolicyDenied) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-private"
    assert "HF_TOKEN" in str(raised.value.hint)
    fetcher.environ["HF_TOKEN"] = TOKEN
    hub.requests.clear()
    assert (await fetcher("hf:reef/tiny")).path.read_bytes() == BODY
    shown = {request.path.partition("/repos")[1]: request.authorization for request in hub.requests}
    assert shown == {"": f"Bearer {TOKEN}", "/repos": None}


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("hf:reef/other", "source-private"),
        ("hf:reef/tiny@v9", "source-unknown"),
        ("hf:reef/tiny/x.gguf", "source-no-model"),
    ],
)
async def test_what_is_not_there_is_explained(hub: Hub, fetcher: Fetcher, source: str, code: str) -> None:
    with pytest.raises(AtollError) as raised:
        await fetcher(source)
    assert raised.value.code == code


async def test_nothing_is_fetched_in_the_clear_over_a_network(fetcher: Fetcher) -> None:
    fetcher.environ["HF_ENDPOINT"] = "http://hub.invalid"
    with pytest.raises(AtollError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-insecure"


@pytest.mark.usefixtures("full_disk")
async def test_a_disk_without_room_is_told_before_anything_comes(hub: Hub, fetcher: Fetcher) -> None:
    with pytest.raises(LinkError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "model-no-room"
    assert len(hub.requests) == 1


async def test_two_commands_do_not_write_into_one_part(hub: Hub, fetcher: Fetcher) -> None:
    offer = Offer("x.gguf", "https://x", sha256=hashlib.sha256(BODY).hexdigest())
    with download_module._mine(fetcher.part(BODY), offer), pytest.raises(AtollError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-busy"
