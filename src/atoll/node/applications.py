"""Logging in to the node's own database as an application does, for those who come over HTTP.

A PostgreSQL of somebody else has no such role, unless a setting says how to log in.
"""

from __future__ import annotations

from typing import Any

import psycopg

from atoll.domain.errors import ConfigError
from atoll.node import credentials
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.postgres.conf import APP_ROLE
from atoll.node.postgres.server import Postgres

CONNECT_SECONDS_MAX = 5
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


async def log_in(
    home: Home, settings: Settings, postgres: Postgres, name: str, options: str = ""
) -> Connection:
    """A session of the application's role, known by this name; options are the session's settings."""
    address = settings.questions_database
    if settings.database and not address:
        raise ConfigError(
            "questions-no-role",
            "this node's PostgreSQL has no login for those who ask over HTTP",
            hint="Set questions_database to the address of a role that may read what may be asked.",
        )
    return await psycopg.AsyncConnection.connect(
        address or postgres.conninfo(APP_ROLE),
        autocommit=True,
        connect_timeout=CONNECT_SECONDS_MAX,
        options=options,
        application_name=name,
        password=None if address else credentials.password(home),
    )
