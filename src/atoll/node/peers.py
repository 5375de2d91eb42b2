"""The models of other nodes, for this one: what they offer, a runtime for each, and what this node offers.

Offers travel as rows of atoll.offer. Only nodes with a link to this one are asked: what passed through a
third would be read by it. Which place answers a request is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from psycopg import AsyncConnection

from atoll.domain.errors import LinkError
from atoll.domain.models import Skill
from atoll.link.greeting import Purpose
from atoll.link.peers import Links
from atoll.node.config import Settings
from atoll.node.offering import Me, own_offers, steadied
from atoll.runtimes.contract import Facts, Runtime
from atoll.runtimes.peer.pool import Pool
from atoll.runtimes.peer.runtime import Bounds, PeerRuntime
from atoll.serving.answering import Answering
from atoll.serving.offer import Offer
from atoll.serving.service import Serving
from atoll.sql import query

EVERY_SECONDS = 5.0
MEMBERS_PER_SECOND = 10
log = logging.getLogger(__name__)

Connection = AsyncConnection[tuple[Any, ...]]
Options = Mapping[str, Mapping[str, Any]]


class Peers:
    def __init__(self, serving: Serving, settings: Settings, options: Callable[[], Options]) -> None:
        """`options` are those that each model is wanted with on this node."""
        self._serving = serving
        self._settings = settings
        self._options = options
        self._links: Links | None = None
        self._answering: Answering | None = None
        self._pools: dict[int, Pool] = {}
        self._others: list[Offer] = []
        self._told: dict[str, Offer] | None = None
        self._tell_at = 0.0

    def attach(self, links: Links) -> None:
        """From now on there are peers, and this is who this node is to them."""
        self._links, self._pools, self._told = links, {}, None
        self._answering = Answering(
            self._serving, links.me.number, self._settings.region, lambda model: self.own().get(model)
        )
        links.serve_streams(self._answering.serve, Purpose.MODEL)

    # What others offer

    def offers(self) -> list[Offer]:
        """Of the nodes that there is a link to now."""
        return [offer for offer in self._others if self._is_up(offer.node)]

    def round_trip(self, node: int) -> float | None:
        report = self._links.link(node) if self._links is not None else None
        return report.rtt_seconds if report is not None else None

    def runtime(
        self,
        node: int,
        model: str,
        scopes: frozenset[str] = frozenset(),
        deadline_seconds: float | None = None,
    ) -> Runtime:
        """A model of a peer. Scopes and deadline are for what is asked without words for them."""
        if self._links is None:
            raise LinkError("runtime-broken", "could not ask another node: there are no links yet")
        if node not in self._pools:
            report = self._links.link(node)
            name = report.name if report is not None else str(node)
            self._pools[node] = Pool(name, partial(self._links.open_stream, node, Purpose.MODEL))
        offer = next((one for one in self._others if (one.node, one.model) == (node, model)), None)
        facts = Facts(
            offer.skills if offer else frozenset(Skill),
            0,
            offer.context_tokens if offer else None,
            adapters=offer.adapters if offer else (),
            details={"engine": "peer"},
        )
        return PeerRuntime(self._pools[node], model, facts, Bounds(scopes, deadline_seconds))

    def _is_up(self, node: int) -> bool:
        report = self._links.link(node) if self._links is not None else None
        return report is not None and report.state == "up"

    # What this node offers

    def own(self) -> dict[str, Offer]:
        """By model, as it is now."""
        if self._links is None or self._answering is None:
            return {}
        settings = self._settings
        me = Me(self._links.me.number, settings.name, settings.tier, settings.region)
        return own_offers(me, self._serving.models(), self._options(), self._answering.speeds)

    async def read(self, connection: Connection) -> None:
        """What others offer now."""
        rows = await (await connection.execute(query("offers", "others"))).fetchall()
        self._others = [_offer(row) for row in rows]

    async def tell(self, connection: Connection) -> None:
        """What this node offers, where that has changed."""
        now = asyncio.get_running_loop().time()
        if self._links is None or now < self._tell_at:
            return
        told = self._told or {}
        own = {model: steadied(offer, told.get(model)) for model, offer in self.own().items()}
        if own == self._told:
            return
        for model, offer in own.items():
            if offer != told.get(model):
                await connection.execute(query("offers", "say"), _values(offer))
        if self._told is None or told.keys() - own.keys():
            await connection.execute(query("offers", "forget"), (list(own),))
        row = await (await connection.execute(query("offers", "members"))).fetchone()
        self._told = own
        self._tell_at = now + max(EVERY_SECONDS, (row[0] if row else 1) / MEMBERS_PER_SECOND)


def _values(offer: Offer) -> dict[str, Any]:
    price_in, price_out = offer.price or (None, None)
    return {
        "model": offer.model,
        "version": offer.version,
        "variant": offer.variant,
        "skills": sorted(offer.skills),
        "adapters": list(offer.adapters),
        "context_tokens": offer.context_tokens,
        "state": offer.state,
        "queue": offer.queue,
        "tokens_per_second": offer.tokens_per_second,
        "is_upstream": offer.is_upstream,
        "region": offer.region,
        "price_in": price_in,
        "price_out": price_out,
    }


def _offer(row: tuple[Any, ...]) -> Offer:
    node, name, tier, model, version, variant, skills, adapters, context, state, queue, speed, *rest = row
    is_upstream, region, node_region, price_in, price_out = rest
    known = frozenset(Skill(skill) for skill in skills if skill in list(Skill))
    price = (price_in, price_out) if price_in is not None and price_out is not None else None
    return Offer(
        node,
        name,
        tier,
        model,
        version,
        variant,
        known,
        tuple(adapters),
        context,
        state,
        queue,
        speed,
        is_upstream,
        region,
        node_region,
        price,
    )
