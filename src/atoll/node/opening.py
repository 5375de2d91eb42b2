"""Opening a home for the process that runs its node, making it first where the folder is empty.

The lock comes before anything is read or written, so that two nodes cannot make the same home. What the
user gave when the home was made is remembered in its atoll.toml; a name is always written down, because it
is who the node is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from atoll.domain.errors import ConfigError
from atoll.node import config, home
from atoll.node.account import Account, server_account
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.lock import HomeLock


@dataclass(frozen=True)
class Opened:
    """A home in the hands of this process."""

    home: Home
    settings: Settings
    account: Account
    lock: HomeLock
    is_new: bool


@contextmanager
def opened(path: Path, flags: Mapping[str, object], environment: Mapping[str, str]) -> Iterator[Opened]:
    """Take the home of a node, and give it back at the end."""
    account = server_account()
    is_new = not home.is_home(path)
    if is_new:
        home.check_free(path)
    settings = config.load_settings(flags, environment, path / "atoll.toml")
    _make_folder(path)
    lock = HomeLock(path)
    lock.take()
    try:
        found = _make(path, flags, environment, settings, account) if is_new else home.open_home(path)
        if found.facts.postgres != settings.postgres:
            raise ConfigError(
                "home-postgres",
                f"the home {path} was made for PostgreSQL {found.facts.postgres}, not {settings.postgres}",
                hint=f"Leave --postgres away, or set it to {found.facts.postgres}.",
            )
        home.lay_out(found, account)
        yield Opened(found, settings, account, lock, is_new)
    finally:
        lock.release()


def _make(
    path: Path,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    settings: Settings,
    account: Account,
) -> Home:
    made = home.make_home(path, settings.postgres, account)
    given = config.given_settings(flags, environment)
    home.write_file(made.config, config.new_file({**given, "name": settings.name}))
    return made


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            "home-not-yours",
            f"cannot make the home {path}",
            detail=f"{error.strerror or error}.",
            hint="Choose another folder with --home.",
        ) from error
