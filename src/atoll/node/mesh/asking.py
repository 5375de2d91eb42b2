"""Leaving an errand for the running node and waiting for its answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from psycopg.types.json import Jsonb

from atoll.domain.errors import DataError, LinkError
from atoll.node.postgres.server import Postgres
from atoll.sql import query

ANSWER_SECONDS_MAX = 300.0
POLL_SECONDS = 0.05


async def ask(postgres: Postgres, kind: str, details: dict[str, Any]) -> dict[str, Any]:
    """The node's answer to an errand; an error in it is raised here."""
    async with await postgres.connect() as connection:
        row = await (await connection.execute(query("errands", "ask"), (kind, Jsonb(details)))).fetchone()
        if row is None:
            raise LinkError("errand-lost", "the errand could not be left")
        await connection.execute(query("errands", "wake"))
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while time.monotonic() < deadline:
            found = await (await connection.execute(query("errands", "answered"), (row[0],))).fetchone()
            if found is not None:
                answer = dict(found[0])
                if "error" in answer:
                    told = answer["error"]
                    raise DataError(told["code"], told["message"], detail=told["detail"], hint=told["hint"])
                return answer
            await asyncio.sleep(POLL_SECONDS)
    raise LinkError(
        "errand-unanswered", "the node did not answer in time", hint="Look at what it does: atoll logs"
    )
