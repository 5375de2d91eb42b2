"""Checking: receipts of a table, asked of all linked nodes and compared, and told to peers that ask.

A peer is told of the rows that it may have and of no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from atoll.data.consistency import receipts
from atoll.domain.errors import DataError, LinkError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.node.mesh.desk import Connection, Desk, explained
from atoll.node.postgres.server import Postgres
from atoll.sql import query

REQUEST_SECONDS_MAX = 120.0


class Checking:
    def __init__(self, postgres: Postgres, links: Links) -> None:
        self._postgres = postgres
        self._desk = Desk(postgres)
        self._links = links
        links.handle("receipt.buckets", self._tell_buckets)
        links.handle("receipt.rows", self._tell_rows)

    async def close(self) -> None:
        await self._desk.close()

    async def check(self, details: dict[str, Any]) -> dict[str, Any]:
        members = {report.number: report for report in self._links.report() if report.state != "removed"}
        silent = {report.name: "no link" for report in members.values() if report.state != "up"}
        names = {self._links.me.number: self._links.me.name} | {
            report.number: report.name for report in members.values() if report.state == "up"
        }
        async with await self._postgres.connect() as connection:
            shared = await (await connection.execute(query("receipts", "tables"))).fetchall()
            wanted = details.get("tables") or [name for name, _, _, problem in shared if problem is None]
            unknown = set(wanted) - {name for name, *_ in shared}
            if unknown:
                raise DataError(
                    "table-not-shared",
                    f"table {min(unknown)} is not shared",
                    hint="See what is: atoll tables",
                )
            tables = [await self._compare(connection, table, names) for table in wanted]
        return {"nodes": list(names.values()), "silent": silent, "tables": tables}

    async def _compare(self, on: Connection, table: str, names: Mapping[int, str]) -> dict[str, Any]:
        """Compare a table scope by scope, each with those who may have its rows."""
        circles = await (await on.execute(query("receipts", "circles"), (table,))).fetchall()
        try:
            parts = [
                await receipts.compare(table, self._sources(on, scope, members or [], names))
                for scope, members in circles
            ]
        except LinkError as error:
            raise LinkError(
                "peer-silent", "could not compare: a node stopped answering", detail=f"{error}."
            ) from error
        verdict = receipts.TableVerdict.of_parts(table, parts)
        return {
            "table": table,
            "rows": dict(verdict.rows),
            "same": verdict.is_same,
            "absent": list(verdict.absent),
            "complete": verdict.is_complete,
            "differences": [{"key": d.key, "hashes": dict(d.hashes)} for d in verdict.differences],
        }

    def _sources(
        self, on: Connection, scope: str, members: Sequence[int], names: Mapping[int, str]
    ) -> dict[str, receipts.Source]:
        sources: dict[str, receipts.Source] = {self._links.me.name: _Local(on, [scope])}
        return sources | {
            names[number]: _Remote(self._links, number, scope) for number in members if number in names
        }

    async def _tell_buckets(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        async with self._desk(peer) as (connection, scopes):
            own = _Local(connection, _asked(payload, scopes))
            found = await own.buckets(str(payload["table"]), int(payload["count"]))
        return {"buckets": [[bucket, rows, digest] for bucket, (rows, digest) in found.items()]}

    async def _tell_rows(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        wanted = [int(bucket) for bucket in payload["wanted"]]
        asked = (str(payload["table"]), int(payload["count"]), wanted, int(payload["most"]))
        async with self._desk(peer) as (connection, scopes):
            own = _Local(connection, _asked(payload, scopes))
            return {"rows": dict(await own.rows(*asked))}


def _asked(payload: Mapping[str, Any], may_hear_of: Sequence[str]) -> list[str]:
    return [scope for scope in may_hear_of if scope == payload.get("scope")]


class _Local:
    """This node's own receipts, of rows in some scopes."""

    def __init__(self, on: Connection, scopes: list[str]) -> None:
        self._on = on
        self._scopes = scopes

    async def buckets(self, table: str, count: int) -> receipts.Buckets:
        rows = await self._fetch("buckets", (table, count, self._scopes))
        return {bucket: (rows_in_it, digest) for bucket, rows_in_it, digest in rows}

    async def rows(self, table: str, count: int, wanted: Sequence[int], most: int) -> Mapping[str, str]:
        return dict(await self._fetch("rows", (table, count, list(wanted), most, self._scopes)))

    async def _fetch(self, name: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return await (await self._on.execute(query("receipts", name), parameters)).fetchall()
        except psycopg.Error as error:
            raise explained(error) from error


class _Remote:
    """A peer's receipts of one scope, over the link."""

    def __init__(self, links: Links, number: int, scope: str) -> None:
        self._links = links
        self._number = number
        self._scope = scope

    async def buckets(self, table: str, count: int) -> receipts.Buckets:
        answer = await self._ask("receipt.buckets", {"table": table, "count": count})
        return {int(bucket): (int(rows), str(digest)) for bucket, rows, digest in answer["buckets"]}

    async def rows(self, table: str, count: int, wanted: Sequence[int], most: int) -> Mapping[str, str]:
        payload = {"table": table, "count": count, "wanted": list(wanted), "most": most}
        return dict((await self._ask("receipt.rows", payload))["rows"])

    async def _ask(self, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        asked = payload | {"scope": self._scope}
        return await self._links.request(self._number, kind, asked, REQUEST_SECONDS_MAX)
