"""What every command shares: the option --home, and the home that it means."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from atoll.node.home import Home

HomeOption = Annotated[
    str | None,
    typer.Option("--home", metavar="DIR", help="Home of the node; $ATOLL_HOME, then ~/.atoll, if not given."),
]


def find_home(flag: str | None) -> Home:
    """The home that exists where the option, the variable or the default says."""
    from atoll.node import home

    return home.find_home(flag, os.environ)


def postgres_port(home: Home) -> int:
    """The port that names the server's socket: the running node knows, else its settings do."""
    from atoll.node.config import load_settings
    from atoll.node.lock import holder
    from atoll.node.postgres_conf import DEFAULT_PORT

    told = (holder(home.path) or {}).get("postgres_port")
    if told is not None:
        return int(told)
    listen = load_settings({}, os.environ, home.config).listen_postgres
    return listen.port if listen else DEFAULT_PORT
