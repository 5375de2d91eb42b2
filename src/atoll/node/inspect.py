"""How a node is, seen from outside of its process: from its home, its lock, its HTTP and its database.

Nothing here needs the node to run, and nothing changes anything.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from atoll import __version__
from atoll.node.config import Settings
from atoll.node.home import Home
from atoll.node.lock import holder
from atoll.node.postgres import conf as postgres_conf
from atoll.sql import query

if TYPE_CHECKING:
    from atoll.node.postgres.foreign import ForeignPostgres

ANSWER_SECONDS_MAX = 5.0
ANSWER_BYTES_MAX = 65536


@dataclass(frozen=True)
class Status:
    home: str
    uuid: str
    version: str
    is_running: bool
    is_ready: bool
    reasons: dict[str, str]
    pid: int | None
    name: str
    number: int | None
    region: str
    tier: str
    http: str | None
    link: str | None
    postgres: str
    socket: str
    is_postgres_foreign: bool
    disk_free_bytes: int
    disk_floor: int
    has_left: bool
    peers: int | None
    links_up: int | None
    tables: int | None
    table_problems: dict[str, str]
    parked: int | None
    conflicts: int | None
    differences: dict[str, int]
    repairs: int | None
    orphans: int | None
    models: dict[str, dict[str, Any]]
    pipelines: dict[str, dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


async def inspect(home: Home, settings: Settings, port: int) -> Status:
    """Look at a node from outside."""
    word = holder(home.path)
    reasons = {"node": "no node runs in this home"} if word is None else await _reasons(word)
    foreign = _foreign(home, settings) if settings.database else None
    version, row = await _ask(home, port, foreign) if word is not None else (None, None)
    row = row or {}
    facts = word or {}
    return Status(
        home=str(home.path),
        uuid=home.facts.uuid,
        version=str(facts.get("version", __version__)),
        is_running=word is not None,
        is_ready=not reasons,
        reasons=reasons,
        pid=facts.get("pid"),
        name=row.get("name") or settings.name,
        number=row.get("number"),
        region=row.get("region") or settings.region,
        tier=row.get("tier") or settings.tier,
        http=facts.get("http", str(settings.http) if settings.http else None),
        link=facts.get("link", str(settings.link) if settings.link else None),
        postgres=version or ("PostgreSQL" if foreign else str(home.facts.postgres)),
        socket=foreign.place if foreign else str(home.run / f".s.PGSQL.{port}"),
        is_postgres_foreign=foreign is not None,
        disk_free_bytes=shutil.disk_usage(home.path).free,
        disk_floor=settings.disk_floor,
        has_left=bool(row.get("has_left")),
        peers=row.get("peers"),
        links_up=row.get("links_up"),
        tables=row.get("tables"),
        table_problems=row.get("table_problems") or {},
        parked=row.get("parked"),
        conflicts=row.get("conflicts"),
        differences=row.get("differences") or {},
        repairs=row.get("repairs"),
        orphans=row.get("orphans"),
        models=row.get("models") or {},
        pipelines=row.get("pipelines") or {},
    )


def _foreign(home: Home, settings: Settings) -> ForeignPostgres:
    from atoll.node.foreign import foreign_server  # few nodes need it, and it takes a while to load

    return foreign_server(home, settings)


async def _ask(
    home: Home, port: int, foreign: ForeignPostgres | None
) -> tuple[str | None, dict[str, Any] | None]:
    """PostgreSQL's version and what it knows of the node, as far as they can be had."""
    try:
        connection = await (foreign.connect() if foreign else _connect(home, port))
    except psycopg.OperationalError:
        return None, None
    async with connection:
        version = str(connection.info.parameter_status("server_version"))
        try:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query("nodes", "overview"))
            return version, await cursor.fetchone()
        except psycopg.Error:
            return version, None


async def _connect(home: Home, port: int) -> psycopg.AsyncConnection[tuple[Any, ...]]:
    return await psycopg.AsyncConnection.connect(
        host=str(home.run),
        port=port,
        user=postgres_conf.OWNER,
        dbname=postgres_conf.DATABASE,
        autocommit=True,
        connect_timeout=int(ANSWER_SECONDS_MAX),
    )


async def _reasons(word: dict[str, Any]) -> dict[str, str]:
    """Why the running node is not ready, in its own words: over HTTP, or as its lock says."""
    http = word.get("http")
    if http is None:
        return dict(word.get("reasons", {"node": "the node is starting"}))
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            body = await _get(http, "/readyz")
        return {str(part): str(reason) for part, reason in json.loads(body)["reasons"].items()}
    except (OSError, ValueError, KeyError, TimeoutError) as error:
        return {"http": f"the node does not answer on http://{http}: {error}"}


async def _get(address: str, path: str) -> bytes:
    place = urlsplit(f"http://{address}")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(place.hostname or "", place.hostname)  # noqa: S104
    reader, writer = await asyncio.open_connection(host, place.port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        answer = b""
        while len(answer) < ANSWER_BYTES_MAX and (block := await reader.read(ANSWER_BYTES_MAX)):
            answer += block
    finally:
        writer.close()
    return answer.partition(b"\r\n\r\n")[2]
