"""Questions of this node, wired: who reads for them, what is answered to whom, and who may ask over HTTP.

A question reads as the application's role, logged in as that role: a right that is only set aside can be
taken up again from inside of a statement. A PostgreSQL of somebody else has no such role, unless a setting
says how to log in.
"""

from __future__ import annotations

from typing import Any

import psycopg

from atoll.analytics.answer import SESSION
from atoll.analytics.service import Questions
from atoll.domain.errors import ConfigError
from atoll.node import credentials
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.postgres.conf import APP_ROLE
from atoll.node.postgres.server import Postgres

CONNECT_SECONDS_MAX = 5
Connection = psycopg.AsyncConnection[tuple[Any, ...]]


def make_questions(home: Home, settings: Settings, postgres: Postgres) -> Questions:
    async def as_app() -> Connection:
        address = settings.questions_database
        if settings.database and not address:
            raise ConfigError(
                "questions-no-role",
                "this node's PostgreSQL has no login for questions",
                hint="Set questions_database to the address of a role that may read what may be asked.",
            )
        where = address or postgres.conninfo(APP_ROLE)
        return await psycopg.AsyncConnection.connect(
            where,
            autocommit=True,
            connect_timeout=CONNECT_SECONDS_MAX,
            options=SESSION,
            application_name="atoll question",
            password=None if address else credentials.password(home),
        )

    return Questions(as_app=as_app, as_owner=postgres.connect, mode=settings.questions)
