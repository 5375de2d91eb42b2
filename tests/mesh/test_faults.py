"""A random history of faults under load; the seed repeats it. `make fuzz` asks for a long one.

Time is not part of the seed: what happens between two faults depends on the machine. What must hold does not.
"""

from __future__ import annotations

import asyncio
import os
import random

import psycopg
import pytest

from support.fix_mesh import Mesh, MeshMaker, make_seed, pairs
from support.load import Load

FAULTS = int(os.environ.get("ATOLL_FAULTS", "8"))
ROUND = 8
pytestmark = [
    pytest.mark.mesh,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(300 + FAULTS * 20),
]


async def test_any_history_of_faults_ends_the_same_everywhere_with_nothing_lost(make_mesh: MeshMaker) -> None:
    rng = make_seed()
    mesh = await make_mesh("18", "16", "18")
    left = FAULTS
    while left > 0:
        async with Load(mesh, rng) as load:
            for _ in range(min(left, ROUND)):
                await load.written(rng.randint(5, 40))
                await commit_fault(mesh, rng)
            await mesh.everywhere().calm()
            for node in mesh.nodes:
                if node.running is None:
                    await mesh.up(node)
        left -= ROUND
        await mesh.settle()
        await load.verify()


async def commit_fault(mesh: Mesh, rng: random.Random) -> None:
    """One fault, which lasts until another one undoes it or the round ends."""
    one, two = rng.choice(pairs(mesh.nodes))
    network = mesh.between(one, two)
    what = rng.choice(
        [
            "cut",
            "calm",
            "silent",
            "delay",
            "throttle",
            "kill",
            "up",
            "postgres",
            "clock",
            "slot",
            "subscription",
        ]
    )
    if what in ("postgres", "clock", "slot", "subscription") and one.running is None:
        what = "up"
    print(f"fault: {what} {one.name} {two.name}")
    try:
        match what:
            case "cut":
                await network.cut()
            case "calm":
                await network.calm()
            case "silent":
                await network.fall_silent()
            case "delay":
                await network.delay(rng.uniform(0.01, 0.5))
            case "throttle":
                await network.throttle(rng.choice([16, 64, 256]) * 1024)
            case "kill" if one.running is not None and len(mesh.live()) > 2:
                await mesh.kill(one)
            case "up":
                for node in mesh.nodes:
                    if node.running is None:
                        await mesh.up(node)
            case "postgres":
                mesh.kill_postgres(one)
            case "clock":
                await mesh.set_clock(one, rng.uniform(-100, 100))
            case "slot":
                for end in ("pg_terminate_backend(active_pid)", "pg_drop_replication_slot(slot_name)"):
                    query = f"select {end} from pg_replication_slots where slot_name = %s"
                    await mesh.sql(one, query, f"atoll_to_{two.number}")
            case "subscription":
                await mesh.sql(one, f"alter subscription atoll_from_{two.number} disable")
    except (psycopg.Error, OSError) as error:
        # Another fault is in the way: the server is away, the slot is in use.
        print(f"  not done: {str(error).strip()}")
        await asyncio.sleep(0.1)
