"""Hears of decisions as any program would: by LISTEN on a pipeline's channel, when one is committed."""

from __future__ import annotations

import asyncio
import json
import time

import psycopg

from atoll.demo.ledger import Account
from atoll.demo.scenario import Site
from atoll.domain.errors import DataError
from atoll.sql import query


async def hear(site: Site, dsn: str, account: Account, is_listening: asyncio.Event) -> None:
    """Note each decision of a site in its account, until cancelled."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(query("demo", f"listen_{site.table}"))
            is_listening.set()
            async for note in connection.notifies():
                id_ = json.loads(note.payload).get("key", {}).get("id")
                if id_ is not None:
                    account.note_decision(int(id_), time.monotonic())
    except psycopg.Error as error:
        said = str(error).strip().splitlines()[0]
        raise DataError("demo-look-failed", f"could not listen at {site.name}: {said}") from error
