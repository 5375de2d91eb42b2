"""A node's home: one folder with everything that the node has.

Here is the layout and nothing of what the files mean; lock.py gives a home to one process. A home is made
in an empty folder; `home.json` says which layout it has and for which PostgreSQL it was made. It is written
before anything else is, so that a node killed while making its home finishes the work at the next start.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.node.account import Account, first_closed

LAYOUT = 1
SOCKET_PATH_BYTES_MAX = 107
LONGEST_SOCKET = "/peers/.s.PGSQL.65535"
ROOT_HOME = Path("/var/lib/atoll")


@dataclass(frozen=True)
class HomeFacts:
    """What home.json says; it never changes while the home lives."""

    layout: int
    postgres: int
    uuid: str


@dataclass(frozen=True)
class Home:
    path: Path
    run: Path
    facts: HomeFacts

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def peers(self) -> Path:
        """The folder of the Unix sockets that stand for the peers' servers."""
        return self.run / "peers"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def next_keys(self) -> Path:
        """Those of another membership, until the node has moved into it."""
        return self.path / "keys.next"

    @property
    def models(self) -> Path:
        """Files of models, by the hash of their content."""
        return self.path / "models"

    @property
    def native(self) -> Path:
        """The engine's arithmetic, built for this machine; it can always be built again."""
        return self.path / "native"

    @property
    def split(self) -> Path:
        """What it takes to run a model together with other nodes, and what is kept of their layers."""
        return self.path / "split"

    @property
    def programs(self) -> Path:
        return self.path / "programs"

    @property
    def credentials(self) -> Path:
        return self.path / "credentials"

    @property
    def config(self) -> Path:
        return self.path / "atoll.toml"


@dataclass(frozen=True)
class HomeChoice:
    """Where the home is to be, and what the user should be told about the choice."""

    path: Path
    note: str | None = None


def choose_home(flag: str | None, environment: Mapping[str, str], account: Account) -> HomeChoice:
    """The folder from --home, $ATOLL_HOME or the default; refused where PostgreSQL's user cannot go."""
    given = flag or environment.get("ATOLL_HOME")
    if not given:
        default = Path(os.path.expanduser("~")).resolve() / ".atoll"
        if first_closed(default, account) is None:
            return HomeChoice(default)
        return HomeChoice(
            ROOT_HOME,
            f'home is {ROOT_HOME}, because PostgreSQL\'s user "{account.name}" cannot reach {default}',
        )
    path = Path(given).expanduser().resolve()
    # The home's own mode is ours to set; only the way to it is not.
    closed = first_closed(path.parent, account)
    if closed is not None:
        raise ConfigError(
            "home-unreachable",
            f'PostgreSQL\'s user "{account.name}" cannot reach the home {path}',
            detail=f"The folder {closed} is closed to that user.",
            hint=f"Choose a home open to it, such as {ROOT_HOME}, or run the node as an ordinary user.",
        )
    return HomeChoice(path)


def find_home(flag: str | None, environment: Mapping[str, str]) -> Home:
    """The home that exists where --home, $ATOLL_HOME or the default says."""
    given = flag or environment.get("ATOLL_HOME")
    if given:
        return open_home(Path(given).expanduser().resolve())
    default = Path(os.path.expanduser("~")).resolve() / ".atoll"
    is_moved = os.geteuid() == 0 and not is_home(default) and is_home(ROOT_HOME)
    return open_home(ROOT_HOME if is_moved else default)


def open_home(path: Path) -> Home:
    """A home that exists."""
    file = path / "home.json"
    try:
        raw: dict[str, Any] = json.loads(file.read_text())
        if raw["layout"] != LAYOUT:
            raise _other_layout(path, raw["layout"])
        return Home(path, _run_folder(path), HomeFacts(LAYOUT, int(raw["postgres"]), str(raw["uuid"])))
    except FileNotFoundError:
        hint = "Make one with `atoll up`, or name its folder with --home."
        raise ConfigError("no-home", f"no node lives in {path}", hint=hint) from None
    except PermissionError:
        hint = "Run the command as the node's user."
        raise ConfigError("home-not-yours", f"cannot read the home {path}", hint=hint) from None
    except (ValueError, KeyError, TypeError) as error:
        hint = "Restore the file from a backup."
        raise ConfigError("home-damaged", f"cannot understand {file}", hint=hint) from error


def _other_layout(path: Path, layout: object) -> ConfigError:
    return ConfigError(
        "home-version",
        f"the home {path} has layout {layout}, and this Atoll knows layout {LAYOUT}",
        hint="Run it with the Atoll that made it, or choose another folder with --home.",
    )


def is_home(path: Path) -> bool:
    return (path / "home.json").exists()


def check_free(path: Path) -> None:
    """Refuse a folder in which something else lives."""
    if path.exists() and not path.is_dir():
        raise ConfigError(
            "home-not-a-folder", f"{path} is not a folder", hint="Choose another one with --home."
        )
    if path.is_dir() and any(not _is_unfinished(entry.name) for entry in path.iterdir()):
        raise ConfigError(
            "not-a-home",
            f"{path} is not empty and is not the home of a node",
            hint="Choose an empty folder, or one that does not exist, with --home.",
        )


def make_home(path: Path, major: int, account: Account) -> Home:
    """Write home.json into an empty folder, with the lock held, and then the folders."""
    check_free(path)
    facts = HomeFacts(LAYOUT, major, str(uuid.uuid4()))
    write_file(path / "home.json", json.dumps(asdict(facts), indent=1) + "\n")
    home = Home(path, _run_folder(path), facts)
    lay_out(home, account)
    return home


def lay_out(home: Home, account: Account) -> None:
    """Make the folders that are missing, with the owners and modes that they need. Safe to repeat."""
    home.path.chmod(0o700 if account.is_self else 0o711)
    if home.next_keys.exists() and not home.keys.exists():
        home.next_keys.rename(home.keys)  # a move that was cut off between its last two steps
    for folder in (home.logs, home.keys):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    home.programs.mkdir(exist_ok=True)
    for folder in (home.run, home.peers):
        folder.mkdir(exist_ok=True, mode=0o700)
        _check_private(folder, account)
        folder.chmod(0o700)
        account.own(folder)


def write_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file whole or not at all, also when the machine stops in between."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _is_ours_unfinished(name: str) -> bool:
    return name == "lock" or (name.startswith("home.json.") and name.endswith(".new"))


def _is_unfinished(name: str) -> bool:
    """What a node leaves that was killed in the first moments of making its home."""
    return name == "lock" or (name.startswith("home.json.") and name.endswith(".new"))


def _run_folder(path: Path) -> Path:
    """The folder of the sockets: in the home, or a short one where a socket's path would be too long."""
    run = path / "run"
    if len(os.fsencode(run)) + len(LONGEST_SOCKET) <= SOCKET_PATH_BYTES_MAX:
        return run
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
    return Path("/tmp") / f"atoll-{path.stat().st_uid}-{digest}"  # noqa: S108 (made private, and checked to be)


def _check_private(folder: Path, account: Account) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), account.uid):
        raise ConfigError(
            "run-folder-taken",
            f"the folder {folder} belongs to somebody else",
            detail="The sockets of the node would not be safe in it.",
            hint="Remove it, or choose a home with a shorter path.",
        )
