"""Making a home from a backup. The whole backup is read and checked before the first file is written.

The home that comes out is marked: at its first start the node takes a new number, because its peers may have
seen more of the old one than the backup holds.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from atoll.domain.errors import ConfigError
from atoll.node import home as homes
from atoll.node.account import Account
from atoll.node.backup import archive
from atoll.node.backup.archive import Manifest
from atoll.node.mesh import incarnation
from atoll.node.mesh.recall import HomeMemory


def restore(file: Path, path: Path, account: Account) -> Manifest:
    """A new home at `path`; what is there already is never touched."""
    if homes.is_home(path):
        raise ConfigError(
            "home-in-use",
            f"cannot restore into {path}: a node lives there",
            hint="Choose another folder with --home, or move that one away first.",
        )
    homes.check_free(path)
    if not file.is_file():
        raise ConfigError("backup-missing", f"there is no backup {file}", hint="Check the path.")
    manifest = archive.verify(file)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.restoring")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir(mode=0o700)
        archive.extract(file, unfinished)
        _mark(unfinished)
        _close_writes(unfinished / "data")
        _own(unfinished / "data", account)
        if path.exists():
            (path / "lock").unlink(missing_ok=True)
            path.rmdir()
        unfinished.rename(path)
    except OSError as error:
        raise ConfigError(
            "backup-not-restored",
            f"could not restore into {path}",
            detail=f"{error.strerror or error}.",
            hint="Check that the disk has room and that the folder may be written.",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _mark(path: Path) -> None:
    found = homes.open_home(path)
    memory = incarnation.remembered(found) or HomeMemory("")
    incarnation.remember(found, replace(memory, is_restored=True))


def _close_writes(data: Path) -> None:
    """An application may connect before the node has its new number: until then it can only read."""
    with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.write("default_transaction_read_only = 'on'\n")


def _own(data: Path, account: Account) -> None:
    account.own(data)
    for place, folders, files in os.walk(data):
        for name in (*folders, *files):
            account.own(Path(place) / name)
