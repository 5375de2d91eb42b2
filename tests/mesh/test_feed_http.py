"""A program follows a node's feed over HTTP and is told what another node wrote."""

from __future__ import annotations

import asyncio
import base64
import json
import re

import pytest

from atoll.node import credentials
from atoll.node.home import open_home
from support.fix_mesh import Mesh, MeshNode

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="session")]


async def test_what_one_node_writes_is_told_by_another(mesh: Mesh) -> None:
    one, two, _ = mesh.nodes
    await mesh.share("sighting", "id integer primary key, what text not null")
    reader, writer = await _ask(two, "/feed/sightings?create=true&tables=sighting")
    try:
        await mesh.until(two, "select count(*) = 1 from atoll.cursor where name = 'sightings'")
        await mesh.app(one, "insert into sighting values (1, 'a whale')")
        async with asyncio.timeout(60):
            event = await reader.readuntil(b"whale")
            data = json.loads(re.findall(r"data: (.*)", (event + await reader.readline()).decode())[-1])
        assert (data["table"], data["origin"]) == ("public.sighting", 1)
        assert data["rows"] == [{"op": "I", "row": {"id": "1", "what": "a whale"}}]
    finally:
        writer.close()
        await mesh.app(two, "select atoll.close_feed('sightings')")
        await mesh.app(one, "select atoll.unshare('sighting')")


async def _ask(node: MeshNode, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    assert node.running is not None
    address = re.search(r"http://(\S+):(\d+)", "".join(node.running.said))
    assert address
    reader, writer = await asyncio.open_connection(address[1], int(address[2]))
    secret = base64.b64encode(f"app:{credentials.password(open_home(node.home))}".encode()).decode()
    writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\nAuthorization: Basic {secret}\r\n\r\n".encode())
    return reader, writer
