"""Applications and arriving changes that lock the same rows in opposite orders."""

from __future__ import annotations

import asyncio
import random

import psycopg
import pytest

from support.fix_mesh import Mesh, MeshNode, make_seed

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
ROWS = 16


async def test_deadlocks_between_applications_and_arriving_changes_lose_nothing(mesh: Mesh) -> None:
    rng = make_seed()
    await mesh.share("ledger", "id int primary key, sum bigint default 0, last text", '{"sum": "counter"}')
    await mesh.app(mesh.nodes[0], "insert into ledger select g from generate_series(1, %s) g", ROWS)
    await mesh.settle()
    before = await _deadlocks(mesh)
    added = 0
    for turn in range(12):
        seeds = [random.Random(rng.random()) for _ in mesh.nodes]
        added += sum(
            await asyncio.gather(
                *(_write(mesh, node, seed) for node, seed in zip(mesh.nodes, seeds, strict=True)),
            )
        )
        if turn >= 1 and await _deadlocks(mesh) > before:
            break
    assert await _deadlocks(mesh) > before, "there was no deadlock to survive"
    await mesh.settle()
    assert await mesh.same("select sum(sum) from ledger") == [(added,)]


async def _write(mesh: Mesh, node: MeshNode, rng: random.Random) -> int:
    """Transactions of many statements, some of which step through the rows against the order of keys."""
    added = 0
    connecting = psycopg.AsyncConnection.connect(node.dsn(as_owner=False))
    async with await connecting as connection:
        for turn in range(8):
            keys = sorted(rng.sample(range(1, ROWS + 1), 8), reverse=bool(turn % 2))
            try:
                for key in keys:
                    query = "update ledger set sum = sum + 1, last = %s where id = %s"
                    await connection.execute(query, [f"{node.name} {turn}", key])
                await connection.execute("update ledger set sum = sum + 1")
                await connection.commit()
                added += len(keys) + ROWS
            except psycopg.errors.DeadlockDetected:
                await connection.rollback()
    return added


async def _deadlocks(mesh: Mesh) -> int:
    query = "select deadlocks from pg_stat_database where datname = 'atoll'"
    return sum(rows[0][0] for rows in (await mesh.everywhere_sql(query)).values())
