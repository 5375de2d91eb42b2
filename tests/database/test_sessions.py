"""Sessions that listen: told at once, nothing missed, and asleep meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from atoll.sql.sessions import heard
from support.fix_postgres import Connection, Database

LONG = 60.0


async def test_a_listener_is_told_while_it_waits(connection: Connection, app_connection: Connection) -> None:
    await connection.execute("listen news")
    waiting = asyncio.create_task(heard(connection, LONG))
    await asyncio.sleep(0.05)
    await app_connection.execute("notify news, 'one'")
    assert [note.payload for note in await asyncio.wait_for(waiting, LONG / 2)] == ["one"]


async def test_what_came_during_a_statement_is_told(
    connection: Connection, app_connection: Connection
) -> None:
    await connection.execute("listen news")
    await app_connection.execute("notify news, 'one'")
    await app_connection.execute("notify news, 'two'")
    await connection.execute("select 1")
    notes = await asyncio.wait_for(heard(connection, LONG, most=2), LONG / 2)
    assert [note.payload for note in notes] == ["one", "two"]


async def test_who_is_told_nothing_sleeps_and_goes_on(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.execute("listen news")
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    call_later = loop.call_later

    def noted(delay: float, callback: Callable[..., Any], *values: Any, **more: Any) -> asyncio.TimerHandle:
        timers.append(delay)
        return call_later(delay, callback, *values, **more)

    monkeypatch.setattr(loop, "call_later", noted)
    assert await heard(connection, 1.0) == []
    assert len(timers) <= 3, timers
    assert (await (await connection.execute("select 2")).fetchone()) == (2,)


async def test_a_session_that_is_ended_says_so(connection: Connection, database: Database) -> None:
    await connection.execute("listen news")

    async def listen() -> None:
        await heard(connection, LONG)  # the server's word
        await heard(connection, LONG)  # its end

    waiting = asyncio.create_task(listen())
    await asyncio.sleep(0.05)
    async with await database.connect() as other:
        await other.execute("select pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        await asyncio.wait_for(waiting, LONG / 2)


async def test_a_wait_that_is_given_up_leaves_the_session_usable(connection: Connection) -> None:
    waiting = asyncio.create_task(heard(connection, LONG))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await (await connection.execute("select 3")).fetchone()) == (3,)
