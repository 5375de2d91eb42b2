"""May a request be answered in a place? Pure, and asked again before every try, so nothing slips by.

What is forbidden stays forbidden; what is unfit would need another request; what is away may come back.
"""

from __future__ import annotations

from collections.abc import Collection
from math import inf
from typing import NamedTuple

from atoll.router.asked import Asked
from atoll.router.place import Kind, Place
from atoll.router.policy.route import Route

GLOBAL, LOCAL, REGION, NODE = "global", "local", "region:", "node:"


class Verdict(NamedTuple):
    forbidden: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    away: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.forbidden + self.unfit + self.away


ADMITTED = Verdict()


def why_not(asked: Asked, route: Route, place: Place) -> tuple[str, ...]:
    """Every reason against it; none where the place may answer."""
    return judge(asked, route, place).all


def judge(asked: Asked, route: Route, place: Place) -> Verdict:
    """ADMITTED, or all that is against it."""
    forbidden, unfit, away = _forbidden(asked, route, place), _unfit(asked, route, place), _away(place)
    if forbidden or unfit or away:
        return Verdict(tuple(forbidden), tuple(unfit), tuple(away))
    return ADMITTED


def _away(place: Place) -> list[str]:
    found = [] if place.is_up else ["it is away, or failed lately"]
    found += [] if place.is_funded else ["the budget is spent here"]
    return found + (["the route has expired: no other node was heard for too long"] if place.is_stale else [])


def scopes_of(asked: Asked, route: Route) -> frozenset[str]:
    """Of everything that is in the request."""
    if asked.label is None:
        return asked.scopes
    return asked.scopes | {route.labels.get(asked.label, f"label {asked.label}")}


def narrowest(scopes: Collection[str]) -> str:
    """The scope in which all of these are kept; what may be in no place beside this one is local."""
    found = {scope for scope in scopes if scope != "global"}
    if len(found) <= 1:
        return next(iter(found), "global")
    regions = {scope for scope in found if scope.startswith("region:")}
    nodes = {scope for scope in found if scope.startswith("node:")}
    # The rows are on this node, so its number and its region agree: the number is the narrower one.
    if "local" in found or len(regions) > 1 or len(nodes) > 1:
        return "local"
    return next(iter(nodes))


def _forbidden(asked: Asked, route: Route, place: Place) -> list[str]:
    found = [why for scope in sorted(scopes_of(asked, route)) if (why := _keeps(scope, place))]
    if route.rank(place) is None:
        found.append("the route does not lead there")
    if route.keys and asked.caller not in route.keys:
        found.append("the route is not for who asks")
    if place.kind is Kind.CLOUD and place.region is None:
        found.append("nobody has said in which region its server is")
    if place.kind is Kind.CLOUD and place.price is None:
        found.append("nobody has said what it costs")
    hints = asked.hints
    for named in (hints.only, hints.places):
        if named is not None and not is_named(place, named):
            found.append("the request is for other places")
    if is_named(place, hints.ignore):
        found.append("the request is not for this place")
    return found


def _keeps(scope: str, place: Place) -> str | None:
    """Why what has this scope may not go there. A scope that is not understood keeps it everywhere."""
    is_own = place.kind is not Kind.CLOUD
    if scope == GLOBAL:
        is_admitted = True
    elif scope == LOCAL:
        is_admitted = place.kind is Kind.HERE
    elif scope.startswith(NODE):
        is_admitted = is_own and scope == f"{NODE}{place.node}"
    else:
        regions = {place.region} if place.passing is None else {place.region, place.passing}
        is_admitted = {scope} == {f"{REGION}{region}" for region in regions}
    return None if is_admitted else f"scope {scope} may not go there"


def _unfit(asked: Asked, route: Route, place: Place) -> list[str]:
    found = []
    if place.model not in route.models.get(place.kind, ()):
        found.append("the route names another model there")
    if asked.skill not in place.skills:
        found.append(f"its model is not made to {asked.skill}")
    if lacking := asked.needs - place.needs:
        found.append(f"it does not do {', '.join(sorted(lacking))}")
    if place.context_tokens is not None and asked.tokens_in_least > place.context_tokens:
        found.append(f"its context of {place.context_tokens} tokens is too small")
    return found + _budget(asked, route, place)


def _budget(asked: Asked, route: Route, place: Place) -> list[str]:
    price, most = place.price, asked.hints.max_price
    if price is None:
        return []
    found = []
    if most is not None and (price.tokens_in > most.tokens_in or price.tokens_out > most.tokens_out):
        found.append("it costs more a token than the request allows")
    cap = min(inf if one is None else one for one in (asked.max_cost, route.max_cost))
    has_budget = route.budget is not None or asked.budget is not None
    is_counted = cap < inf or (has_budget and place.kind is Kind.CLOUD)
    if is_counted and price.tokens_out > 0 and asked.tokens_out is None:
        found.append("without max_tokens nobody knows what it would cost")
    elif price.of(asked.tokens_in, asked.tokens_out or 0) > cap:
        found.append(f"it may cost more than the {cap:g} that are left for it")
    return found


def is_named(place: Place, words: Collection[str]) -> bool:
    return bool(words) and not {str(place.kind), place.name, place.label}.isdisjoint(words)
