"""Models on several nodes: files come from peers, a next version drops no request, forgery is refused."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from pathlib import Path

import onnx
import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.patience import at_start

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
).encode()


async def ask(node: MeshNode) -> int:
    """The status of an answer."""
    assert node.running is not None
    request = urllib.request.Request(f"{node.running.http}/v2/models/tiny/infer", BODY)

    def post() -> int:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    return await asyncio.to_thread(post)


async def version_of(mesh: Mesh, node: MeshNode) -> str:
    rows = await mesh.until(
        node, "select true, version from atoll.model_state where model = 'tiny' and state <> 'fetching'"
    )
    return str(rows[0][1])


async def test_a_model_is_wanted_on_all_nodes_and_its_next_version_takes_over(
    make_mesh: MeshMaker, tiny_onnx: Path, tmp_path: Path
) -> None:
    mesh = await make_mesh("18", "18")
    one, two = mesh.nodes
    home = ("--home", str(one.home))
    await mesh.run("model", "add", str(tiny_onnx), "--name", "tiny", "--on", "all", *home)
    first = await version_of(mesh, two)
    assert await ask(two) == 200

    statuses: list[int] = []

    async def keep_asking() -> None:
        while True:
            statuses.append(await ask(two))

    asking = asyncio.create_task(keep_asking())
    changed = onnx.load(tiny_onnx)
    changed.doc_string = "the second"
    onnx.save(changed, tmp_path / "tiny.onnx")
    await mesh.run("model", "add", str(tmp_path / "tiny.onnx"), "--name", "tiny", "--on", "all", *home)
    taken = "select state = 'ready' and version <> %s from atoll.model_state where model = 'tiny'"
    await mesh.until(two, taken, first)
    seen = len(statuses)
    while len(statuses) < seen + 10:
        await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert set(statuses) == {200}

    forged = """update atoll.model set manifest = manifest || '{"licence": "none"}'"""
    await mesh.sql(one, forged)
    told = "select problem like '%%changed after it was signed' from atoll.model_state where model = 'tiny'"
    await mesh.until(two, told)
    assert await ask(two) == 200, "what was loaded before goes on"

    await mesh.run("model", "place", "tiny", "--on", two.name, "--off", *home)
    await mesh.until(two, "select not exists (select from atoll.model_state where model = 'tiny')")
    assert await ask(two) == 404


async def test_rows_that_arrive_wake_a_node_that_looks_only_once_an_hour(
    make_mesh: MeshMaker, tiny_onnx: Path
) -> None:
    mesh = await make_mesh(room=2)
    one = await mesh.add()
    two = mesh.plan()
    names = (("node.models", "LOOK_SECONDS"), ("pipelines.service", "LOOK_SECONDS"))
    names += (("pipelines.service", "IDLE_SECONDS"), ("node.search", "IDLE_SECONDS"))
    two.environment = at_start("".join(f"import atoll.{a} as m; m.{b} = 3600\n" for a, b in names))
    await mesh.join(two, await mesh.invite(one))
    await mesh.up(two)
    await mesh.form()
    home = ("--home", str(one.home))

    await mesh.run("model", "add", str(tiny_onnx), "--name", "tiny", "--on", "all", *home)
    await mesh.until(two, "select true from atoll.model_state where model = 'tiny' and state = 'empty'")
    assert await ask(two) == 200
    await mesh.run("model", "place", "tiny", "--on", two.name, "--off", *home)
    await mesh.until(two, "select not exists (select from atoll.model_state where model = 'tiny')")

    await mesh.app(one, "create table note (id int primary key, a float8, b float8)")
    await mesh.app(one, "select atoll.share('note')")
    await mesh.until_known("note")
    declared = "select atoll.add_pipeline('marks', 'note', 'array[a, b, a, b]', 'tiny', 'mark')"
    await mesh.app(one, declared)
    await mesh.until(
        two, "select true from atoll.pipeline_state where pipeline = 'marks' and problem is null"
    )
