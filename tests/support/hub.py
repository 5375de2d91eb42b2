"""An atoll in the shape of a hub, as databases: each edge has a link to the hub, which passes changes on.

A link carries in order, and the test decides how far it has come. An edge may be lost and put back from a
snapshot of its database, under another number, as a node is that is restored from a backup.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import LiteralString, cast

import psycopg

from support.fix_nodes import REGIONS, Change, Node, Nodes, open_node
from support.fix_postgres import Database, DatabaseMaker

EPOCH = 500_000_000_000


class Hub:
    """The first node is the hub, the others are edges; links are named by whom they lead from and to."""

    def __init__(self, nodes: Nodes, make: DatabaseMaker) -> None:
        self.nodes, self._make, self._time = nodes, make, EPOCH
        self.edges = range(1, len(nodes))
        self.links: dict[tuple[int, int], deque[Change]] = {}
        self._passed: set[tuple[int, int]] = set()
        for edge in self.edges:
            self.links[0, edge] = deque()
            self.links[edge, 0] = deque()

    def clock(self, milliseconds: int) -> None:
        """All clocks stand at so many milliseconds of a time later than all that is written so far."""
        self._time = EPOCH + milliseconds
        for node in self.nodes:
            node.clock(self._time)

    def tell(self, place: int) -> None:
        """What was written at a place sets out."""
        for change in self.nodes[place].changes():
            self._send(place, change)

    def _send(self, place: int, change: Change, but: int | None = None) -> None:
        for other in self.edges if place == 0 else (0,):
            if other != but and self._may_have(other, change):
                self.links[place, other].append(change)

    def _may_have(self, place: int, change: Change) -> bool:
        number = self.nodes[place].number
        scopes = ("global", f"region:{REGIONS[place]}", f"node:{number}")
        return change.scope in scopes and change.target in (None, number) and change.origin != number

    def carry(self, link: tuple[int, int], most: int | None = None) -> None:
        """The next changes of a link arrive, each in a transaction of its own."""
        waiting, (sender, receiver) = self.links[link], link
        for _ in range(len(waiting) if most is None else min(most, len(waiting))):
            change = waiting.popleft()
            known = (change.origin, change.seq) in self._passed
            if receiver == 0 and known:
                continue
            self.nodes[receiver].receive([change])
            self.tell(receiver)
            if receiver == 0 and change.target is None:
                self._passed.add((change.origin, change.seq))
                self._send(0, change, but=sender)

    def settle(self) -> None:
        """Everything arrives, and so do replies to it."""
        while any(self.links.values()):
            for link in self.links:
                self.carry(link)

    def copy_for(self, place: int) -> None:
        """The hub writes a copy of what it has for an edge."""
        hub, number = self.nodes[0], self.nodes[place].number
        hub.owner("insert into atoll.progress (peer) values (%s) on conflict do nothing", number)
        hub.owner("select atoll.owe_seed(%s)", number)
        _call(hub, "atoll.seed(%s)", number)
        self.tell(0)

    def snapshot(self, place: int) -> str:
        """The database of an edge as it is now; the edge stays up."""
        node = self.nodes[place]
        _close(node)
        name = self._make(node.database.name).name
        self.nodes[place] = self._again(node, node.database, node.number)
        return name

    def put_back(self, place: int, snapshot: str, number: int, name: str) -> None:
        """The edge is lost with what was on its way to it, and comes back as it was, under another number."""
        lost, region = self.nodes[place], REGIONS[place]
        _close(lost)
        for link in ((0, place), (place, 0)):
            self.links[link].clear()
        database = replace(lost.database, name=snapshot)
        with psycopg.connect(database.conninfo(), autocommit=True) as session:
            session.execute("select atoll.take_number(%s, 'restored')", [number])
        self.nodes[place] = self._again(lost, database, number)
        self.nodes[0].owner("select atoll.know_again(%s, %s, %s, 'edge', '{}')", number, name, region)
        self.tell(0)
        _call(self.nodes[place], "atoll.tell_everything()")
        self.tell(place)
        self.copy_for(place)

    def _again(self, node: Node, database: Database, number: int) -> Node:
        opened = open_node(database, number)
        opened.told = node.told if number == node.number else 0
        opened.clock(self._time)
        return opened


def _close(node: Node) -> None:
    node.app.close()
    node.apply.close()


def _call(node: Node, procedure: str, *values: object) -> None:
    """A procedure of the node's own, which commits as it goes."""
    node.apply.execute("set session_replication_role = origin")
    node.apply.execute(cast("LiteralString", "call " + procedure), values or None)
    node.apply.execute("set session_replication_role = replica")
