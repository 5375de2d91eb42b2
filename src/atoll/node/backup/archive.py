"""The file of a backup: a tar, compressed with zstd, whose last entry lists all the others with their hashes.

Written in one pass and read in one pass, so that neither takes more memory than a block. What is in it, and
where it goes, is decided by the others of this package.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import zstandard

from atoll.domain.errors import DataError

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES_MAX = 256 * 1024**2
BLOCK = 1024**2
LEVEL = 3


@dataclass(frozen=True)
class Manifest:
    """Whose backup it is, and what has to be in it."""

    format: int
    node: str
    number: int
    atoll_id: str
    postgres: int
    release: str
    made_at: str
    has_authority: bool
    files: Mapping[str, tuple[int, str]]


class Writer:
    """Entries one after the other; `finish` adds the manifest."""

    def __init__(self, target: IO[bytes]) -> None:
        compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._zstd = compressor.stream_writer(target, closefd=False)
        self._tar = tarfile.open(mode="w|", fileobj=self._zstd, format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._files: dict[str, tuple[int, str]] = {}

    def folder(self, name: str) -> None:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o700
        self._tar.addfile(entry)

    def file(self, name: str, source: IO[bytes], size: int) -> None:
        """Exactly `size` bytes: a file that grows or shrinks meanwhile is mended by the WAL."""
        hashed = _Hashed(source, size)
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        self._tar.addfile(entry, hashed)
        self._files[name] = (size, hashed.digest.hexdigest())

    def text(self, name: str, content: bytes) -> None:
        self.file(name, io.BytesIO(content), len(content))

    def finish(self, **facts: Any) -> None:
        manifest = Manifest(format=FORMAT, files=self._files, **facts)
        content = json.dumps(asdict(manifest)).encode()
        entry = tarfile.TarInfo(MANIFEST)
        entry.size, entry.mode = len(content), 0o600
        self._tar.addfile(entry, io.BytesIO(content))
        self._tar.close()
        self._zstd.flush(zstandard.FLUSH_FRAME)


class _Hashed(io.RawIOBase):
    """Reads `size` bytes, zeros past the end of the source, and hashes them on the way."""

    def __init__(self, source: IO[bytes], size: int) -> None:
        self._source = source
        self._left = size
        self.digest = hashlib.sha256()

    def read(self, wanted: int = -1) -> bytes:
        wanted = self._left if wanted < 0 else min(wanted, self._left)
        block = self._source.read(wanted)
        block += bytes(wanted - len(block))
        self._left -= wanted
        self.digest.update(block)
        return block


def verify(path: Path) -> Manifest:
    """Read all of it and compare: a backup that is damaged or cut off is refused."""
    found: dict[str, tuple[int, str]] = {}
    manifest: Manifest | None = None
    with _entries(path) as entries:
        for entry, content in entries:
            if manifest is not None:
                raise damaged(path, "There is something behind its end.")
            if entry.name == MANIFEST:
                manifest = _read_manifest(path, content.read(MANIFEST_BYTES_MAX) if content else b"")
            elif content is not None:
                found[entry.name] = (entry.size, _digest(content))
    if manifest is None:
        raise damaged(path, "Its end is missing.")
    for name, facts in manifest.files.items():
        if found.pop(name, None) != facts:
            raise damaged(path, f"The entry {name} is missing or not what was written.")
    if found:
        raise damaged(path, f"The entry {min(found)} was not written by a backup.")
    return manifest


def extract(path: Path, target: Path) -> None:
    """Write the entries of a verified backup below a folder."""
    with _entries(path) as entries:
        for entry, content in entries:
            place = target / entry.name
            if entry.name == MANIFEST:
                continue
            if content is None:
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                while block := content.read(BLOCK):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())


@contextmanager
def _entries(path: Path) -> Iterator[Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]]:
    try:
        with (
            path.open("rb") as raw,
            zstandard.ZstdDecompressor().stream_reader(raw) as packed,
            tarfile.open(mode="r|", fileobj=packed) as tar,
        ):
            yield _each(path, tar)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, f"{error}.".capitalize()) from error


def _each(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    for entry in tar:
        parts = PurePosixPath(entry.name)
        if parts.is_absolute() or ".." in parts.parts or not (entry.isreg() or entry.isdir()):
            raise damaged(path, f"The entry {entry.name!r} does not belong into a home.")
        yield entry, (tar.extractfile(entry) if entry.isreg() else None)


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := content.read(BLOCK):
        digest.update(block)
    return digest.hexdigest()


def _read_manifest(path: Path, content: bytes) -> Manifest:
    raw = json.loads(content)
    if raw.get("format") != FORMAT:
        raise DataError(
            "backup-version",
            f"cannot read backup {path}: its format is {raw.get('format')}, this Atoll knows {FORMAT}",
            hint="Restore it with the Atoll that made it.",
        )
    files = {str(name): (int(size), str(digest)) for name, (size, digest) in raw["files"].items()}
    return Manifest(**{**raw, "files": files})


def damaged(path: Path, detail: str) -> DataError:
    return DataError(
        "backup-damaged",
        f"cannot use backup {path}: it is damaged",
        detail=detail,
        hint="Use another copy, or another backup.",
    )
