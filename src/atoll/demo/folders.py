"""Where the homes of the demo are: in a new temporary folder, or in an empty one that was named."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from atoll.domain.errors import ConfigError
from atoll.node.account import first_closed, server_account


def temporary() -> Path:
    """A new folder with a short name that PostgreSQL's user can reach."""
    account = server_account()
    for parent in dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp"))):  # noqa: S108
        if parent.is_dir() and os.access(parent, os.W_OK) and first_closed(parent, account) is None:
            made = Path(tempfile.mkdtemp(prefix="atoll-demo-", dir=parent))
            made.chmod(0o711)
            return made
    raise ConfigError(
        "no-demo-folder",
        "cannot find a folder for the demo",
        detail=f'PostgreSQL\'s user "{account.name}" can reach none of the folders for temporary files.',
        hint="Name one with --home.",
    )


def chosen(folder: Path) -> Path:
    """The folder that was named, made if need be."""
    path = folder.expanduser().resolve()
    closed = first_closed(path, server_account())
    if closed is not None:
        raise ConfigError(
            "home-unreachable",
            f'PostgreSQL\'s user "{server_account().name}" cannot reach {path}',
            detail=f"The folder {closed} is closed to that user.",
            hint="Choose another folder with --home.",
        )
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(
            "demo-folder-in-use",
            f"{path} is not an empty folder",
            hint="Choose an empty folder, or one that does not exist, with --home.",
        )
    try:
        if not path.exists():
            path.mkdir(parents=True)
            path.chmod(0o711)
    except OSError as error:
        raise ConfigError(
            "home-not-yours", f"cannot make the folder {path}", detail=f"{error.strerror or error}."
        ) from error
    return path
