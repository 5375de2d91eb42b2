"""Meshes of a shape: everybody linked to everybody, edges below hubs, a chain, a ring; in two regions.

The chain and the ring are made by hand, as an operator does: `atoll link`, `atoll link --cut`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from support.fix_mesh import Mesh, MeshMaker
from support.parcels import Places

Shape = Literal["mesh", "hub", "chain", "ring"]
SHAPES: tuple[Shape, ...] = ("mesh", "hub", "chain", "ring")


def places(shape: Shape, count: int) -> list[tuple[str, str]]:
    """Tier and region of each node. Regions lie side by side, so that a chain does not split them."""
    if shape == "hub":
        hubs = [("hub", "eu"), ("hub", "us")][: 2 if count > 4 else 1]
        return hubs + [("edge", "eu" if n % 2 == 0 else "us") for n in range(count - len(hubs))]
    return [("edge", "eu" if n < (count + 1) // 2 else "us") for n in range(count)]


def wires(shape: Shape, count: int) -> set[tuple[int, int]]:
    """Which nodes a chain or a ring links."""
    chain = {(n, n + 1) for n in range(1, count)}
    return chain | ({(1, count)} if shape == "ring" else set())


async def make_shape(
    make_mesh: MeshMaker, shape: Shape, count: int, flags: Sequence[str] = ()
) -> tuple[Mesh, Places]:
    found = places(shape, count)
    mesh = await make_mesh(room=count, flags=flags)
    for tier, region in found:
        await mesh.add("18", "--tier", tier, "--region", region)
    await mesh.form()
    if shape in ("chain", "ring"):
        await lay(mesh, wires(shape, count))
    regions = {node.name: region for node, (_, region) in zip(mesh.nodes, found, strict=True)}
    return mesh, Places(regions, is_open=shape == "mesh")


async def lay(mesh: Mesh, wanted: set[tuple[int, int]]) -> None:
    """Exactly these links, by hand, and wait until every node goes by them."""
    first, count = mesh.nodes[0], len(mesh.nodes)
    for a in range(1, count + 1):
        for b in range(a + 1, count + 1):
            flags = [] if (a, b) in wanted else ["--cut"]
            await mesh.run("link", f"n{a}", f"n{b}", *flags, "--home", str(first.home))
    near = "select array_agg(number order by number) = %s::int[] from atoll.neighbour"
    for node in mesh.nodes:
        mine = sorted({n for pair in wanted for n in pair if node.number in pair} - {node.number})
        await mesh.until(node, near, mine)
    await mesh.form()
