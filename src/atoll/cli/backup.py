"""`atoll backup` and `atoll restore`: a node into one file, and a home out of it."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def backup(
    target: Annotated[str, typer.Argument(help="File to write, or a folder for it. Nothing is overwritten.")],
    with_authority: Annotated[
        bool,
        typer.Option("--with-authority", help="With the authority's key: whoever has it can admit nodes."),
    ] = False,
    home: HomeOption = None,
) -> None:
    """Write everything that a running node has into one file."""
    from datetime import UTC, datetime
    from pathlib import Path

    from atoll.node.backup.take import take
    from atoll.node.mesh import membership

    found = find_home(home)
    place = Path(target).expanduser().resolve()
    with _bar() as told:
        made = take(
            found,
            running_postgres(found),
            place,
            with_authority=with_authority,
            told=told,
            now=datetime.now(UTC),
        )
    typer.echo(f"{made}  {made.stat().st_size / 1024**2:.1f} MB")
    if membership.may_admit(found) and not with_authority:
        typer.echo(
            "note: the authority's key is not in it; keep keys/authority.key somewhere safe.", err=True
        )


def restore(
    file: Annotated[str, typer.Argument(help="What `atoll backup` wrote.")],
    home: HomeOption = None,
) -> None:
    """Make a home from a backup. `atoll up` then runs the node, under a new number."""
    from pathlib import Path

    from atoll.node.account import server_account
    from atoll.node.backup.restore import restore as make_home
    from atoll.node.home import choose_home

    account = server_account()
    choice = choose_home(home, os.environ, account)
    if choice.note:
        typer.echo(choice.note)
    manifest = make_home(Path(file).expanduser().resolve(), choice.path, account)
    typer.echo(f'node "{manifest.node}" as of {manifest.made_at} is in {choice.path}')
    typer.echo(f"run it:  atoll up{'' if home is None else f' --home {home}'}")


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(
        console=Console(stderr=True), transient=True, disable=not Console(stderr=True).is_terminal
    ) as bar:
        task = bar.add_task("copying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
