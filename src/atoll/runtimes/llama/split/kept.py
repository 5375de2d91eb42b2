"""Weights that a worker has held, by their hashes: an engine that asks for them again need not send them."""

from __future__ import annotations

from pathlib import Path


def make_room(folder: Path, bytes_max: int, wanted: int) -> None:
    """Before more comes, those go that lie there longest, until there is room for it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir())
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total + wanted <= bytes_max:
            return
        file.unlink(missing_ok=True)
        total -= size
