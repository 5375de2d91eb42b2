"""What must not leave a region does not: everything that a node sends is captured and searched for markers.

The capture sees each byte before it is encrypted, and compression is off. A marker that may leave has to be
found in it, so that the test cannot pass by seeing nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import psycopg
import pytest

import support
from support.fix_mesh import Mesh, MeshMaker, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
WIRETAP = Path(support.__path__[0]) / "wiretap"
TABLES = (
    "create table patient (id integer primary key, name text)",
    "create table person (id integer primary key, home text, name text, visits integer not null default 0)",
    "create table fact (id integer primary key, home text, words text)",
    "create table file (name text primary key)",
)
SHARED = (
    "select atoll.share('patient', scope => 'region')",
    """select atoll.share('person', '{"visits": "counter"}', scope_column => 'home')""",
    "select atoll.share('fact', kind => 'append', scope_column => 'home')",
    "select atoll.share('file', scope => 'region')",
)


async def write(mesh: Mesh, node: MeshNode) -> None:
    for statement in (
        "insert into patient select n, 'SECRET-patient-' || n from generate_series(1, 700) n",
        "update patient set name = 'SECRET-again-' || id where id < 100",
        "delete from patient where id < 10",
        "insert into person values (1, 'eu', 'SECRET-ann'), (2, 'local', 'SECRET-bea'),"
        " (3, null, 'OPEN-cem'), (4, 'node:1', 'SECRET-dan'), (5, null, 'OPEN-eve')",
        "update person set visits = visits + 1 where id < 4",
        "insert into fact values (1, 'eu', 'SECRET-fact'), (2, 'global', 'OPEN-fact')",
        "update person set home = 'eu', name = 'SECRET-from-now-on' where id = 3",
        "update person set home = 'us', name = 'OPEN-moved' where id = 1",
        "delete from person where id = 4",
        "insert into file select 'SECRET-key-' || n from generate_series(1, 30) n",
    ):
        await mesh.app(node, statement)


async def test_nothing_of_a_region_leaves_it(make_mesh: MeshMaker, tmp_path: Path) -> None:
    mesh = await make_mesh(room=3, flags=("--link-compression", "off"))
    tape = mesh.folder / "tape"
    eu = mesh.plan("18", "--region", "eu")
    path = os.pathsep.join([str(WIRETAP), *filter(None, [os.environ.get("PYTHONPATH")])])
    eu.environment = {"PYTHONPATH": path, "WIRETAP": str(tape)}
    await mesh.up(eu)
    await mesh.app(eu, "create table fence (node integer primary key, n bigint not null)")
    await mesh.app(eu, "select atoll.share('fence')")
    us = await mesh.add("18", "--region", "us")
    for statement in (*TABLES, *SHARED):
        await mesh.app(eu, statement)
    await mesh.until_known("person")
    await write(mesh, eu)
    await mesh.catch_up()
    assert await mesh.app(us, "select id, name from person order by id") == [
        (1, "OPEN-moved"),
        (5, "OPEN-eve"),
    ]
    late = await mesh.add("18", "--region", "us")
    await mesh.until_known("person", [late])
    await mesh.catch_up()
    for node in (eu, us, late):
        await check_what_is_common(mesh, node, [eu, us, late])
    # A slot that is lost makes the peer copy the log; SECRET rows are still in it while a third node is away.
    await mesh.kill(late)
    await mesh.app(eu, "update patient set name = 'SECRET-once-more'")
    await mesh.sql(eu, "select atoll.drop_slot('atoll_to_2')")
    await mesh.catch_up()
    assert await mesh.app(us, "select count(*) from patient") == [(0,)]
    assert await mesh.app(us, "select words from fact") == [("OPEN-fact",)]
    sent = tape.read_bytes()
    for marker in (b"OPEN-cem", b"OPEN-eve", b"OPEN-moved", b"OPEN-fact"):
        assert marker in sent, f"{marker!r} should have been sent"
    found = sent.find(b"SECRET")
    assert found < 0, sent[max(0, found - 200) : found + 100]


async def check_what_is_common(mesh: Mesh, node: MeshNode, everybody: list[MeshNode]) -> None:
    """Nodes compare the rows that both may have, and find them the same."""
    told = json.loads(await mesh.run("check", "--json", "--wait", "30", "--home", str(node.home)))
    kin = {one.name for one in everybody if (one is everybody[0]) == (node is everybody[0])}
    for table in told["tables"]:
        assert table["same"], table
        assert set(table["rows"]) == (
            kin if table["table"] in ("public.patient", "public.file") else {n.name for n in everybody}
        )


async def test_a_peer_cannot_read_what_is_not_for_it(make_mesh: MeshMaker) -> None:
    """A member that asks PostgreSQL by hand, over its link, gets no further than its subscription."""
    mesh = await make_mesh(room=2)
    eu = await mesh.add("18", "--region", "eu")
    us = await mesh.add("18", "--region", "us")
    await mesh.form()
    await mesh.app(eu, TABLES[0])
    await mesh.app(eu, SHARED[0])
    await mesh.app(eu, "insert into patient values (1, 'SECRET')")
    place: dict[str, Any] = {
        "host": str(us.home / "run/peers"),
        "port": 1,
        "dbname": "atoll",
        "user": "atoll_link",
    }
    for sharp in (
        "COPY (SELECT vals FROM atoll.change WHERE (true)) TO STDOUT",
        "SELECT pg_logical_slot_peek_binary_changes('atoll_to_2', null, null)",
        "SELECT set_config('atoll.peer', '1', false)",
    ):
        assert "SECRET" not in await ask(place, sharp)
    with pytest.raises(psycopg.OperationalError, match="only a subscription"):
        await psycopg.AsyncConnection.connect(**place)


async def ask(place: dict[str, Any], sharp: str) -> str:
    """What a walsender answers to a query; its refusal, if it refuses."""
    try:
        async with await psycopg.AsyncConnection.connect(
            **place, replication="database", autocommit=True, cursor_factory=psycopg.AsyncClientCursor
        ) as connection:
            if not sharp.startswith("COPY"):
                return str(await (await connection.execute(sharp.encode())).fetchall())
            async with connection.cursor().copy(sharp.encode()) as copy:
                return str([bytes(row) async for row in copy])
    except psycopg.Error as error:
        return str(error)
