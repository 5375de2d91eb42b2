"""Writes secrets so that nobody else can read them and a crash leaves the old file or the new one.

Used for keys and certificates of this package; what is in the files is decided elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

from atoll.domain.errors import ConfigError


def write_private(path: Path, text: str) -> None:
    """Replace the file at `path` with `text`, mode 0600, durable before it becomes visible."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_text(path: Path) -> str:
    """The text of a key or certificate file, or an error that names the file and what to do."""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "identity-unreadable",
            f'could not read identity file "{path}"',
            detail=f"{error}.",
            hint="Restore the file from a backup of this home, or join the atoll again with a new token.",
        ) from error
