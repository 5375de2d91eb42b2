"""A package of Python gives its model, and no code of it is run."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from atoll.domain.errors import AtollError, DataError, LinkError
from support.fix_sources import BODY, Fetcher


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


@pytest.mark.usefixtures("full_disk")
async def test_a_disk_without_room_for_a_package_is_told(fetcher: Fetcher, index: Path) -> None:
    publish(index, "1", ENCODER)
    with pytest.raises(LinkError) as raised:
        await fetcher("pypi:tiny-model")
    assert raised.value.code == "model-no-room"
