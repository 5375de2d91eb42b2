"""What this node offers other nodes of its models. Pure: from what Serving says to what others are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from atoll.node.terms import read_terms
from atoll.router.placing.places import UPSTREAM, context_of
from atoll.serving.decide import State
from atoll.serving.offer import Offer
from atoll.serving.service import Word

OFFERS_MAX = 64
STEADY = 0.25  # a speed that differs less from what was told is the same


@dataclass(frozen=True)
class Me:
    """Who offers."""

    number: int
    name: str
    tier: str
    region: str


def own_offers(
    me: Me, words: Iterable[Word], options: Mapping[str, Mapping[str, Any]], speeds: Mapping[str, float]
) -> dict[str, Offer]:
    """By model; `options` are those that each is wanted with. An upstream is offered where they say so."""
    found: dict[str, Offer] = {}
    for word in sorted(words, key=lambda word: (word.state is not State.READY, word.model)):
        wished = options.get(word.model, {})
        is_upstream = word.variant == UPSTREAM
        terms = read_terms(word.variant, word.facts.context_tokens, wished)
        region, price = (terms.region, terms.price) if is_upstream else (me.region, None)
        is_shared = not is_upstream or (wished.get("shared") is True and price is not None)
        is_usable = word.problem is None or word.state is State.READY
        if not (is_shared and is_usable and region) or len(found) == OFFERS_MAX:
            continue
        found[word.model] = Offer(
            node=me.number,
            name=me.name,
            tier=me.tier,
            model=word.model,
            version=word.version,
            variant=word.variant,
            skills=word.facts.skills,
            adapters=tuple(sorted(word.adapters)),
            context_tokens=context_of(word, terms),
            state=str(word.state),
            queue=_about(word.asking),
            tokens_per_second=speeds.get(word.model),
            is_upstream=is_upstream,
            region=region,
            node_region=me.region,
            price=None if price is None else (price.tokens_in, price.tokens_out),
        )
    return found


def steadied(now: Offer, told: Offer | None) -> Offer:
    """The same as was told where only the speed differs, and that by little: not worth a write."""
    old, new = told.tokens_per_second if told else None, now.tokens_per_second
    if old is not None and (new is None or abs(new - old) <= STEADY * old):
        return replace(now, tokens_per_second=old)
    return now


def _about(count: int) -> int:
    return 1 << (count.bit_length() - 1) if count else 0
