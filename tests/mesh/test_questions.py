"""Questions over real links: `atoll query` and HTTP against three nodes, some away, unwilling or slow."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio

from atoll.node import credentials
from atoll.node.home import open_home
from support.fix_home import atoll
from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]
ARROW = "application/vnd.apache.arrow.stream"


@pytest_asyncio.fixture(loop_scope="session")
async def asked(mesh: Mesh) -> AsyncIterator[Mesh]:
    """Each node has rows of its own in `visit`, all have the same in `shelf`."""
    for node in mesh.nodes:
        await mesh.app(node, "create table visit (id int, spent float8)")
        rows = "insert into visit select n, n + %s from generate_series(1, 1000 * %s) n"
        await mesh.app(node, rows, node.number, node.number)
    await mesh.share("shelf", "id int primary key, name text")
    await mesh.app(mesh.nodes[0], "insert into shelf select n, 'shelf ' || n from generate_series(1, 50) n")
    for node in mesh.nodes:
        await mesh.until(node, "select count(*) = 50 from shelf")
    try:
        yield mesh
    finally:
        for node in mesh.nodes:
            await mesh.app(node, "drop table visit")
        await mesh.app(mesh.nodes[0], "select atoll.unshare('shelf')")
        for node in mesh.nodes:
            await mesh.until(
                node, "select not exists (select from atoll.local_table where name = 'public.shelf')"
            )
            await mesh.app(node, "drop table shelf")


async def query(node: MeshNode, sql: str, *flags: str) -> tuple[int, dict[str, Any], str]:
    """`atoll query --json`: how it ended, what it printed, what it complained of."""
    done = await asyncio.to_thread(atoll, "query", sql, "--json", "--home", str(node.home), *flags)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


async def post(
    node: MeshNode, asked: dict[str, Any], accept: str = "*/*", user: str = "app"
) -> tuple[int, bytes]:
    reader, writer = await _connect(node, asked, accept, user)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


async def _connect(
    node: MeshNode, asked: dict[str, Any], accept: str, user: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert node.running is not None
    address = re.search(r"http://(\S+):(\d+)", "".join(node.running.said))
    assert address
    reader, writer = await asyncio.open_connection(address[1], int(address[2]))
    secret = base64.b64encode(f"{user}:{credentials.password(open_home(node.home))}".encode()).decode()
    body = json.dumps(asked).encode()
    head = f"POST /query HTTP/1.0\r\nHost: x\r\nAccept: {accept}\r\nAuthorization: Basic {secret}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def test_each_row_counts_once_and_sums_move_instead_of_rows(asked: Mesh) -> None:
    one, two, _ = asked.nodes
    code, found, _ = await query(one, "select count(*), sum(spent), max(id) from visit")
    total = sum(n * 1000 * (n * 1000 + 1) // 2 + n * n * 1000 for n in (1, 2, 3))
    assert (code, found["rows"]) == (0, [[6000, float(total), 3000]])
    assert found["report"]["complete"]
    assert found["report"]["moved_rows"] == 3
    assert found["report"]["moved_bytes"] < 200
    assert {node["node"]: node["rows"] for node in found["report"]["nodes"]} == {"n1": 1, "n2": 1, "n3": 1}
    code, found, _ = await query(two, "select count(*) from shelf")
    assert (code, found["rows"], found["report"]["way"]) == (0, [[50]], "whole")
    assert [n["state"] for n in found["report"]["nodes"]] == ["answered", "spared", "spared"]
    code, found, _ = await query(
        one, "select s.name, count(*) from visit v join shelf s using (id) group by 1 order by 1 limit 1"
    )
    assert (code, found["rows"]) == (0, [["shelf 1", 3]])


async def test_a_quantile_of_all_nodes_moves_a_histogram(asked: Mesh) -> None:
    sql = "select percentile_cont(0.9) within group (order by spent) from visit"
    _, near, _ = await query(asked.nodes[0], sql)
    _, exact, _ = await query(asked.nodes[0], sql, "--exact")
    assert near["rows"][0][0] == pytest.approx(exact["rows"][0][0], rel=0.01)
    assert near["rows"] != exact["rows"]
    assert near["report"]["moved_rows"] < 1500 < exact["report"]["moved_rows"] == 6000
    assert "estimated" in near["report"]["notes"][0]


async def test_a_node_that_is_away_is_named_and_the_answer_is_partial(asked: Mesh) -> None:
    one, two, three = asked.nodes
    await asked.stop(three)
    code, found, _ = await query(one, "select count(*) from visit")
    assert (code, found["rows"], found["report"]["complete"]) == (3, [[3000]], False)
    states = {node["node"]: (node["state"], node["code"]) for node in found["report"]["nodes"]}
    assert states == {"n1": ("answered", None), "n2": ("answered", None), "n3": ("failed", "no-way")}
    assert (await query(one, "select count(*) from visit", "--partial"))[0] == 0
    code, found, _ = await query(one, "select count(*) from shelf", "--on", "node=n3,n2")
    assert (code, found["rows"]) == (0, [[50]]), "another node stands in"
    code, _, said = await query(one, "select count(*) from visit", "--on", "node=n3")
    assert (code, "no node answered" in said) == (1, True)
    done = await asyncio.to_thread(atoll, "query", "select count(*) from visit", "--home", str(two.home))
    assert (done.returncode, "THE ANSWER IS PARTIAL" in done.stderr, "n3: " in done.stderr) == (3, True, True)
    await asked.up(three)
    await asked.form()


async def test_what_a_node_may_not_answer_is_told_with_its_reason(asked: Mesh) -> None:
    one, two, _ = asked.nodes
    await asked.app(two, "revoke select on visit from app")
    code, found, _ = await query(one, "select count(*) from visit")
    reason = {node["node"]: node["why"] for node in found["report"]["nodes"]}
    assert (code, found["rows"]) == (3, [[4000]])
    assert "permission denied" in reason["n2"]
    await asked.app(two, "grant select on visit to app")
    for sql, wanted in (
        ("select * from nothing_there", "question-refused"),
        ("delete from visit", "question-not-a-select"),
        ("select repeat('x', 5000000) from visit", "answer-too-large"),
    ):
        done = await asyncio.to_thread(atoll, "query", sql, "--timeout", "120", "--home", str(one.home))
        assert (done.returncode, f"code: {wanted}" in done.stderr) == (1, True), done.stderr


async def test_http_gives_json_lines_and_arrow_to_who_knows_the_password(asked: Mesh) -> None:
    one = asked.nodes[0]
    question = {"sql": "select id, spent from visit order by spent desc, id limit 2", "on": "node=n2,n3"}
    status, body = await post(one, question)
    found = json.loads(body)
    assert (status, found["rows"]) == (200, [[3000, 3003.0], [2999, 3002.0]])
    assert found["columns"] == [{"name": "id", "type": "int32"}, {"name": "spent", "type": "double"}]
    status, body = await post(one, question, ARROW)
    table = pa.ipc.open_stream(body).read_all()
    assert (status, table.to_pydict()) == (200, {"id": [3000, 2999], "spent": [3003.0, 3002.0]})
    assert json.loads(table.schema.metadata[b"atoll.report"])["complete"]
    status, body = await post(one, question, "application/x-ndjson")
    lines = [json.loads(line) for line in body.splitlines()]
    assert {line["node"]["node"] for line in lines[:-1]} == {"n2", "n3"}
    assert lines[-1]["result"]["rows"] == found["rows"]
    assert (await post(one, question, user="else"))[0] == 401
    for wrong in (
        {"on": "all"},
        {"sql": 1},
        {"sql": "select 1", "more": 1},
        {"sql": "select"},
        {"sql": "drop table visit"},
    ):
        status, body = await post(one, wrong)
        assert (status, sorted(json.loads(body)["error"])) == (400, ["code", "detail", "hint", "message"]), (
            wrong
        )


async def test_who_hangs_up_has_the_question_withdrawn_everywhere(asked: Mesh) -> None:
    question = {"sql": "select pg_sleep(250), 'left alone'", "seconds": 300}
    _, writer = await _connect(asked.nodes[0], question, "*/*", "app")
    running = "select count(*) {} from pg_stat_activity where usename = 'app' and query ~ 'left alone' and %s"
    for node in asked.nodes:
        await asked.until(node, running.format("= 1"), True)
    writer.close()
    for node in asked.nodes:
        await asked.until(node, running.format("= 0"), True)
    assert (await query(asked.nodes[0], "select 1", "--on", "node=n1"))[0] == 0


async def test_scoped_rows_count_once_and_are_told_only_where_they_may_be(mesh: Mesh) -> None:
    one, two, three = mesh.nodes
    tables = {"ward": "node", "district": "region", "parcel": "global"}
    for table, scope in tables.items():
        await mesh.app(one, f"create table {table} (id int primary key, place text)")
        by_column = "place" if table == "parcel" else None
        await mesh.app(
            one, "select atoll.share(%s, scope => %s, scope_column => %s)", table, scope, by_column
        )
        await mesh.until_known(table)
    for node in mesh.nodes:
        places = ["global", "", "local", f"node:{node.number}", "region:local", "local"]
        for number, place in enumerate(places, 10 * node.number):
            for table in tables:
                await mesh.app(node, f"insert into {table} values (%s, %s)", number, place)
    for node in mesh.nodes:
        await mesh.until(node, "select count(*) = 18 from district")
        await mesh.until(node, "select count(*) = 12 from parcel")
    try:
        assert await _count(two, "district") == (0, 18, {})
        refused = {"n1": "question-scope", "n3": "question-scope"}
        assert await _count(two, "ward") == (3, 6, refused)
        assert await _count(two, "parcel") == (3, 12, refused)
        for node in (one, three):
            await mesh.stop(node)
            node.flags = (*node.flags, "--questions", "on")
            await mesh.up(node)
        await mesh.form()
        assert await _count(two, "ward") == (0, 18, {})
        assert await _count(two, "parcel") == (0, 18, {})
        assert await _count(two, "parcel", "--on", "node=n1,n3") == (0, 15, {})
    finally:
        for table in tables:
            await mesh.app(one, "select atoll.unshare(%s)", table)


async def _count(node: MeshNode, table: str, *flags: str) -> tuple[int, int, dict[str, str]]:
    """How it ended, how many rows there are, and who refused."""
    code, found, said = await query(node, f"select count(*) from {table}", *flags)
    assert found, said
    refused = {n["node"]: n["code"] for n in found["report"]["nodes"] if n["state"] == "failed"}
    return code, found["rows"][0][0], refused


async def test_a_hub_hands_questions_on_to_nodes_behind_it(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18", "18", flags=("--tier", "hub"))
    one, two, three = mesh.nodes
    await mesh.app(three, "create table far (id int)")
    await mesh.app(three, "insert into far select generate_series(1, 200000)")
    await mesh.between(one, three).cut()
    await mesh.until(one, "select state <> 'up' from atoll.link_state where peer = 3")
    code, found, said = await query(one, "select id from far", "--on", "node=n3")
    assert (code, len(found.get("rows", []))) == (0, 200_000), said
    await mesh.between(two, three).cut()
    await mesh.until(two, "select state <> 'up' from atoll.link_state where peer = 3")
    code, _, said = await query(one, "select id from far", "--on", "node=n3")
    assert (code, "there is no way" in said) == (1, True), said
