"""`atoll logs`: the last lines of what the node or its PostgreSQL has logged, and those that follow."""

from __future__ import annotations

import json
import time
from collections import deque
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.home import HomeOption, find_home, foreign_postgres
from atoll.domain.errors import ConfigError

LOOK_EVERY_SECONDS = 0.25


def logs(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until Ctrl-C.")] = False,
    postgres: Annotated[bool, typer.Option("--postgres", help="What PostgreSQL has logged.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, max=1_000_000, help="How many lines.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="The node's log as it is stored.")] = False,
    home: HomeOption = None,
) -> None:
    """Show what the node, or its PostgreSQL, has logged."""
    found = find_home(home)
    if postgres and foreign_postgres(found) is not None:
        raise ConfigError(
            "logs-elsewhere",
            "cannot show the log of PostgreSQL: it is not this node that runs it",
            hint="Ask whoever runs the server, or look where its provider shows logs.",
        )
    folder = found.logs
    file = folder / ("postgres.log" if postgres else "node.log")
    is_plain = postgres or as_json
    for line in _last(file, lines):
        typer.echo(line if is_plain else readable(line))
    if follow:
        _follow(file, is_plain)


def readable(line: str) -> str:
    """A line of the node's log for a person; what is not of the node is left as it is."""
    try:
        found = json.loads(line)
        text = f"{found['time']} {found['level']}: {found['message']}"
        return f"{text}\n{found['trace']}" if "trace" in found else text
    except (ValueError, KeyError, TypeError):
        return line


def _last(file: Path, count: int) -> list[str]:
    """The last lines, from the file before as well where this one has too few."""
    kept: deque[str] = deque(maxlen=count)
    for part in (file.with_name(f"{file.name}.1"), file):
        if part.exists():
            with part.open(errors="replace") as opened:
                kept.extend(line.rstrip("\n") for line in opened)
    return list(kept)


def _follow(file: Path, is_plain: bool) -> None:
    position = file.stat().st_size if file.exists() else 0
    pending = ""
    while True:
        size = file.stat().st_size if file.exists() else 0
        if size < position:
            position, pending = 0, ""
        if size > position:
            with file.open("rb") as opened:
                opened.seek(position)
                block = opened.read()
            position += len(block)
            *whole, pending = (pending + block.decode(errors="replace")).split("\n")
            for line in whole:
                typer.echo(line if is_plain else readable(line))
        time.sleep(LOOK_EVERY_SECONDS)
