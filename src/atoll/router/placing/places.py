"""The places that a route speaks of: this node's models, and what other nodes offer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from atoll.router.place import FREE, OWN_ENGINES, Feel, Kind, Need, Place, Price
from atoll.router.policy.route import Route
from atoll.serving.decide import State
from atoll.serving.offer import Offer
from atoll.serving.service import Word

UPSTREAM = "upstream"
ALL_NEEDS = frozenset(Need)
HUBS = ("hub", "cloud")  # tiers


@dataclass(frozen=True)
class Me:
    number: int
    region: str


@dataclass(frozen=True)
class Terms:
    """What a row says of a model on this node: where its server is, what it costs, how much it reads."""

    region: str | None = None
    price: Price | None = None
    context_tokens: int | None = None


TermsOf = Callable[[str], Terms]
WordOf = Callable[[str], Word | None]


def own_places(me: Me, word_of: WordOf, terms_of: TermsOf, route: Route) -> Iterator[Place]:
    for kind in (Kind.HERE, Kind.CLOUD):
        for named in route.models.get(kind, ()):
            base, _, adapter = named.partition(":")
            word = word_of(base)
            is_cloud = kind is Kind.CLOUD
            if word is None or (word.variant == UPSTREAM) is not is_cloud:
                continue
            if adapter and adapter not in word.adapters:
                continue
            terms = terms_of(base)
            yield Place(
                kind,
                me.number,
                named if is_cloud else "here",
                terms.region if is_cloud else me.region,
                named,
                word.version,
                word.variant,
                word.facts.skills,
                context_of(word, terms),
                terms.price if is_cloud else FREE,
                Feel(queue=word.asking),
                word.problem is None or word.state is State.READY,
                ALL_NEEDS if is_cloud else OWN_ENGINES,
            )


def context_of(word: Word, terms: Terms) -> int | None:
    """For each caller; a model that is not loaded says what it was trained with, which may be more."""
    known = word.facts.context_tokens
    return known if word.state is State.READY or terms.context_tokens is None else terms.context_tokens


def peer_places(offers: Iterable[Offer], route: Route) -> Iterator[Place]:
    for offer in offers:
        kind = Kind.CLOUD if offer.is_upstream else Kind.HUB if offer.tier in HUBS else Kind.PEER
        for named in route.models.get(kind, ()):
            base, _, adapter = named.partition(":")
            if base != offer.model or (adapter and adapter not in offer.adapters):
                continue
            is_cloud = kind is Kind.CLOUD
            price = Price(*offer.price) if offer.price is not None else None
            yield Place(
                kind,
                offer.node,
                f"{named}@{offer.name}" if is_cloud else offer.name,
                offer.region,
                named,
                offer.version,
                offer.variant,
                offer.skills,
                offer.context_tokens,
                price if is_cloud else FREE,
                Feel(queue=offer.queue, tokens_per_second=offer.tokens_per_second),
                needs=ALL_NEEDS if is_cloud else OWN_ENGINES,
                passing=offer.node_region if is_cloud else None,
            )
