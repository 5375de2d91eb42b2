"""Questions of this node, wired: who reads for them, what is answered to whom, and who may ask over HTTP.

A question reads as the application's role, logged in as that role: a right that is only set aside can be
taken up again from inside of a statement.
"""

from __future__ import annotations

from atoll.analytics.answer import SESSION
from atoll.analytics.service import Questions
from atoll.node.applications import Connection, log_in
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.postgres.server import Postgres


def make_questions(home: Home, settings: Settings, postgres: Postgres) -> Questions:
    async def as_app() -> Connection:
        return await log_in(home, settings, postgres, "atoll question", SESSION)

    return Questions(as_app=as_app, as_owner=postgres.connect, mode=settings.questions)
