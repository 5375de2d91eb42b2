"""Where a model's files are: on this machine, or fetched from elsewhere; with a bar on a terminal."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from atoll.registry.store import Store

Count = Callable[[int], None]


@dataclass(frozen=True)
class Files:
    """A model that can be read here."""

    path: Path
    name: str | None = None  # what its source suggests
    origin: str | None = None
    licence: str | None = None


@contextmanager
def files_of(
    source: str,
    store: Store,
    glob: str | None = None,
    variant: str | None = None,
    *,
    to_change: bool = False,
) -> Iterator[Files]:
    """The files, for as long as the block lasts; what was fetched stays in the store."""
    from atoll.domain.errors import ConfigError
    from atoll.registry.sources.address import PackageAddress, parse

    address = parse(source)
    if address is None:
        path = Path(source).expanduser()
        if glob is not None:
            raise ConfigError("source-malformed", "--file is for what is fetched", hint="Name the file.")
        if not path.exists():
            raise ConfigError("model-missing", f"there is no {path}", hint="Correct the path.")
        yield Files(path)
        return
    from atoll.registry.sources.fetch import Wish, fetch

    with TemporaryDirectory(prefix="atoll-model-") as folder:
        place = Path(folder) / address.name  # what is made of a folder is called like it
        place.mkdir()
        with bar("fetching") as begin:
            try:
                wish = Wish(glob, variant, to_change)
                found = asyncio.run(fetch(address, store, place, wish, os.environ, begin))
            except KeyboardInterrupt:
                begins = "begins anew" if isinstance(address, PackageAddress) else "goes on from here"
                typer.echo(f"stopped; the same command {begins}", err=True)
                raise
        yield Files(found.path, address.name, found.origin, found.licence)


@contextmanager
def bar(what: str) -> Iterator[Callable[[int | None], Count]]:
    """A bar of bytes on a terminal, nothing elsewhere. It begins when it is told how many there are."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:

        def begin(total: int | None) -> Count:
            task = shown.add_task(what, total=total)
            return lambda count: shown.advance(task, count)

        yield begin
