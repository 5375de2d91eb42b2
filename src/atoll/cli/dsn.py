"""`atoll dsn`: the address that applications connect to."""

from __future__ import annotations

from typing import Annotated

import typer

from atoll.cli.home import HomeOption, find_home, foreign_postgres, postgres_port


def dsn(
    admin: Annotated[bool, typer.Option("--admin", help="For the owner of everything, not for app.")] = False,
    home: HomeOption = None,
) -> None:
    """Print the address that applications connect to."""
    from atoll.node import credentials

    found = find_home(home)
    foreign = foreign_postgres(found)
    typer.echo(foreign.dsn if foreign else credentials.dsn(found, postgres_port(found), admin))
