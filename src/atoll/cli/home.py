"""What every command shares: the option --home, and the home that it means."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from atoll.node.home import Home
    from atoll.node.postgres.foreign import ForeignPostgres
    from atoll.node.postgres.server import Postgres

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
    from atoll.node.postgres.conf import DEFAULT_PORT

    told = (holder(home.path) or {}).get("postgres_port")
    if told is not None:
        return int(told)
    listen = load_settings({}, os.environ, home.config).listen_postgres
    return listen.port if listen else DEFAULT_PORT


def running(home: Home) -> Mapping[str, Any]:
    """What the node that runs in a home says of its ports; ConfigError where none does."""
    from atoll.domain.errors import ConfigError
    from atoll.node.lock import holder

    word = holder(home.path)
    if word is None:
        raise ConfigError(
            "node-not-running", f"no node runs in {home.path}", hint=f"Start it: atoll up --home {home.path}"
        )
    return word


def foreign_postgres(home: Home) -> ForeignPostgres | None:
    """The PostgreSQL that the home's settings name, where it is not the bundled one."""
    from atoll.node.config import load_settings

    settings = load_settings({}, os.environ, home.config)
    if not settings.database:
        return None
    from atoll.node.foreign import foreign_server

    return foreign_server(home, settings)


def running_postgres(home: Home) -> Postgres:
    """The PostgreSQL of a node that runs; a command that needs it says so when it does not."""
    from typing import cast

    from atoll.node.account import server_account
    from atoll.node.postgres.conf import DEFAULT_PORT, Wishes
    from atoll.node.postgres.programs import bundled
    from atoll.node.postgres.server import Postgres
    from atoll.node.values import Address

    running(home)
    foreign = foreign_postgres(home)
    if foreign is not None:
        # Commands ask for connections, which any server gives.
        return cast("Postgres", foreign)
    port = postgres_port(home)
    listen = None if port == DEFAULT_PORT else Address("localhost", port)
    wishes = Wishes(home.facts.postgres, home.run, listen, 0)
    return Postgres(home.data, bundled(home.facts.postgres), server_account(), wishes)
