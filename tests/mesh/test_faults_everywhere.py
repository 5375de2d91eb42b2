"""Every fault in every shape of mesh, under load, with a schema change in the middle: all nodes end the same.

CI runs a few of the cases with three nodes; `make faults` runs all, on larger meshes with NODES=5 or 8.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from itertools import count

import pytest
import pytest_asyncio

from support.faults import FAULTS, Stage, can_mount, migrate
from support.fix_mesh import Mesh, MeshMaker, make_seed
from support.load import Load
from support.parcels import Places
from support.shapes import SHAPES, make_shape

NODES = int(os.environ.get("ATOLL_FAULT_NODES", "0"))
CHOSEN = {("hub", "stop"), ("hub", "full-disk")}
CASES = [(shape, fault) for shape in SHAPES for fault in FAULTS if NODES or (shape, fault) in CHOSEN]
SETTLE_SECONDS = 240.0
COLUMNS = (
    "select string_agg(format('%%s %%s', attname, format_type(atttypid, atttypmod)), ', ' order by attname)"
    " from pg_attribute where attrelid = 'sale'::regclass and attnum > 0 and not attisdropped"
)
pytestmark = [
    pytest.mark.mesh,
    pytest.mark.slow,
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(900),
]
_turns = count(1)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shaped(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Mesh, Places]]:
    """One mesh for all faults of a shape."""
    maker = MeshMaker()
    try:
        yield await make_shape(maker, request.param, NODES or 3)
    finally:
        await maker.close()


@pytest.mark.parametrize(("shaped", "fault"), CASES, indirect=["shaped"], scope="module")
async def test_a_fault_leaves_all_nodes_the_same_with_nothing_lost(
    shaped: tuple[Mesh, Places], fault: str
) -> None:
    if fault == "full-disk" and not can_mount():
        pytest.skip("this user cannot mount a small file system")
    mesh, places = shaped
    rng = make_seed()
    async with Load(mesh, rng, places=places) as load:
        await load.written(30)
        async with FAULTS[fault](Stage(mesh, load, rng)) as hit:
            print(f"fault: {fault} of {hit.name}", flush=True)
            await load.written(30)
            other = rng.choice([node for node in mesh.live() if node is not hit])
            await migrate(mesh, other, f"alter table sale add column extra_{next(_turns)} int default 7")
            await load.written(30)
        await load.written(30)
    await mesh.settle(SETTLE_SECONDS)
    await load.verify()
    await mesh.same(COLUMNS)
