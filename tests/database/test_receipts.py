"""What a node tells of its rows to a peer that compares: nothing of rows that the peer may not have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.node.mesh.checking import Checking
from atoll.node.postgres.server import Postgres
from support.fix_nodes import ATOLL, Nodes

Handler = Callable[[PeerIdentity, dict[str, Any]], Awaitable[dict[str, Any]]]


class Registered(dict[str, Handler]):
    """Where a node's answers to its peers are registered."""

    def handle(self, kind: str, handler: Handler) -> None:
        self[kind] = handler


@pytest.mark.parametrize("scope", ["global", "region:eu", "region:us", "node:1", "local", None])
async def test_keys_of_other_regions_are_not_told(three_nodes: Nodes, scope: str | None) -> None:
    one = three_nodes[0]
    one.run("create table person (name text primary key, home text)")
    one.run("select atoll.share('person', scope_column => 'home')")
    one.run("insert into person values ('anna', 'eu'), ('otto', null), ('ida', 'node:1'), ('eve', 'local')")
    desk = Registered()
    checking = Checking(cast("Postgres", one.database), cast("Links", desk))
    asked = {"table": "public.person", "count": 1, "wanted": [0], "most": 100, "scope": scope}
    for number, region in ((2, "eu"), (3, "us")):
        peer = PeerIdentity(str(ATOLL), number, f"n{number}", "00")
        wanted = {"global": {"{otto}"}, "region:eu": {"{anna}"} if region == "eu" else set()}
        rows = await desk["receipt.rows"](peer, asked)
        assert set(rows["rows"]) == wanted.get(str(scope), set())
        buckets = await desk["receipt.buckets"](peer, asked)
        assert sum(n for _, n, _ in buckets["buckets"]) == len(rows["rows"])
    await checking.close()


async def test_who_compares_is_answered_after_a_session_has_ended(nodes: Nodes) -> None:
    one = nodes[0]
    one.run("create table person (name text primary key)")
    one.run("select atoll.share('person')")
    one.run("insert into person values ('anna')")
    told = Registered()
    checking = Checking(cast("Postgres", one.database), cast("Links", told))
    asked = {"table": "public.person", "count": 1, "wanted": [0], "most": 100, "scope": "global"}
    peer = PeerIdentity(str(ATOLL), 2, "n2", "00")
    for _ in range(2):
        assert set((await told["receipt.rows"](peer, asked))["rows"]) == {"{anna}"}
        ended = one.apply.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where datname = current_database() and query like '%receipt_rows(%' and pid <> pg_backend_pid()"
        ).fetchall()
        assert ended == [(True,)]
    await checking.close()
