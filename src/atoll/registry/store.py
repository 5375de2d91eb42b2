"""Files of models, kept by the hash of their content below one folder.

A file is there whole or not at all: it grows under another name, is hashed on its way, and gets its own name
last. Files of a variant are laid out as a folder of links when an engine wants to see them so.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from atoll.domain.errors import LinkError
from atoll.registry.manifest import File, Variant

BLOCK_BYTES = 1024**2
SPARE_BYTES = 256 * 1024**2
PART = ".part"
PART_SECONDS_KEPT = 24 * 3600.0
Progress = Callable[[int], None]


class Store:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, sha256: str) -> Path:
        return self._folder / "files" / sha256[:2] / sha256

    def has(self, file: File) -> bool:
        try:
            return self.path(file.sha256).stat().st_size == file.bytes
        except FileNotFoundError:
            return False

    def missing(self, variant: Variant) -> list[File]:
        return [file for file in variant.files if not self.has(file)]

    def take_in(self, source: Path, name: str, progress: Progress = lambda count: None) -> File:
        """A copy of a file; it is hashed first, so that one that is here already is not copied again."""
        size = source.stat().st_size
        own = source.resolve()
        sha256 = own.name if own == self.path(own.name).resolve() else hash_file(source, progress)
        file = File(name, sha256, size)
        if not self.has(file):
            self.check_room(size)
            with source.open("rb") as stream, self.part(sha256).open("wb") as target:
                shutil.copyfileobj(stream, target, BLOCK_BYTES)
            self.finish(file)
        return file

    def check_room(self, size: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(self._folder).free
        if free < size + SPARE_BYTES:
            raise LinkError(
                "model-no-room",
                f"the disk has no room for a model of {size // 1024**2} MB",
                detail=f"{free // 1024**2} MB are free in {self._folder}.",
                hint="Make room, or remove models: atoll model rm",
            )

    def part(self, sha256: str) -> Path:
        """Where a file grows; what is there already need not be fetched again."""
        part = self.path(sha256).with_name(sha256 + PART)
        part.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return part

    def finish(self, file: File) -> None:
        """The part is whole: check it, and give it its name."""
        part = self.part(file.sha256)
        if part.stat().st_size != file.bytes or hash_file(part) != file.sha256:
            part.unlink()
            raise LinkError(
                "model-file-damaged",
                f'file "{file.path}" of a model came with another content than its manifest says',
                hint="It is fetched again.",
            )
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
        part.replace(self.path(file.sha256))

    def lay_out(self, variant: Variant) -> Path:
        """The folder in which the variant's files have their own names; says where its entry is."""
        folder = self._folder / "variants" / hashlib.sha256(repr(variant.files).encode()).hexdigest()[:16]
        for file in variant.files:
            place = folder / file.path
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not place.is_symlink():
                place.symlink_to(self.path(file.sha256))
        return folder / variant.entry

    def sweep(self, kept: Iterable[str]) -> int:
        """Remove what no manifest names any more; says how many bytes that were.

        A part that grew lately is of a model that is being added.
        """
        keep, freed = set(kept), 0
        for path in self._folder.glob("files/??/*"):
            is_growing = path.suffix == PART and time.time() - path.stat().st_mtime < PART_SECONDS_KEPT
            if path.name.removesuffix(PART) not in keep and not is_growing:
                freed += path.stat().st_size
                path.unlink()
        for folder in self._folder.glob("variants/*"):
            if not all(place.exists() for place in folder.rglob("*")):
                shutil.rmtree(folder)
        return freed


def hash_file(path: Path, progress: Progress = lambda count: None) -> str:
    found = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK_BYTES):
            found.update(block)
            progress(len(block))
    return found.hexdigest()
