"""A model from a registry of images comes as its files, and only if it is what its digest says."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from atoll.domain.errors import DataError, LinkError, PolicyDenied
from support.fix_sources import BODY, Fetcher
from support.hubs import Registry, a_registry

GGUF = "application/vnd.ollama.image.model"


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    async with a_registry() as found:
        yield found


def image(registry: Registry, reference: str = "") -> str:
    return f"oci:{registry.base.removeprefix('http://')}/{registry.path}{reference}"


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
