"""The engine's arithmetic built for this processor: whether one was kept, and is for this machine.

A home may move to another machine, and the engine may be upgraded: what was built elsewhere, or for another
version, is passed over. Building is build.py's, and whether it is worth anything measure.py's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ENGINE = "xllamacpp"
LIBRARY = "libggml-cpu.so"
KEPT = "kept.json"
PROCESSOR = (
    "vendor_id",
    "cpu family",
    "model",
    "stepping",
    "flags",
    "CPU implementer",
    "CPU part",
    "Features",
)


@cache
def engine_version() -> str:
    return metadata.version(ENGINE)


@cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """What a library was built for, in a few letters."""
    try:
        first = cpuinfo.read_text().split("\n\n")[0].splitlines()
    except OSError:
        return "unknown"
    said = [line for line in first if line.partition("\t")[0].partition(":")[0].strip() in PROCESSOR]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:12]


def folder_in(native: Path) -> Path:
    return native / f"{engine_version()}-{processor()}"


def library_in(native: Path) -> Path | None:
    """The library that was kept for this engine on this processor."""
    library = folder_in(native) / LIBRARY
    return library if library.is_file() and library.with_name(KEPT).is_file() else None


def keep(native: Path, built: Path, said: dict[str, Any]) -> Path:
    """The libraries of a build become those that engines use from now on; others go."""
    folder = folder_in(native)
    fresh = native / "kept.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True, mode=0o700)
    for library in (built / LIBRARY, *built.glob("libggml-base.so.[0-9]")):
        shutil.copy2(library, fresh / library.name)
    (fresh / KEPT).write_text(json.dumps(said, indent=1) + "\n")
    for old in native.glob("*-*"):
        shutil.rmtree(old)
    fresh.rename(folder)
    return folder / LIBRARY
