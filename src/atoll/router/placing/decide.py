"""A decision: which places may answer a request, best first, and why the others may not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from atoll.router.asked import Asked
from atoll.router.place import Place
from atoll.router.placing.eligible import ADMITTED, Verdict, judge, scopes_of
from atoll.router.placing.score import cost, expected_seconds, score
from atoll.router.policy.route import Route, Unreachable


class Decision(NamedTuple):
    asked: Asked
    route: Route
    order: tuple[Place, ...]
    out: tuple[tuple[Place, Verdict], ...]

    def told(self) -> dict[str, Any]:
        asked, policy = self.asked, self.route.cascade
        return {
            "route": self.route.name,
            **({} if policy is None else {"cascade": policy.told()}),
            **self._out_of_reach(),
            "request": {
                "path": asked.path,
                "skill": asked.skill,
                "needs": sorted(asked.needs),
                "tokens_in": asked.tokens_in,
                "tokens_out": asked.tokens_out,
                "scopes": sorted(scopes_of(asked, self.route)),
                "label": asked.label,
                "max_cost": asked.max_cost,
            },
            "places": [
                {
                    **self._told(place),
                    "expected_seconds": round(expected_seconds(asked, place), 3),
                    "cost": cost(asked, place),
                }
                for place in self.order
            ],
            "out": [{**self._told(place), "why": list(verdict.all)} for place, verdict in self.out],
        }

    def _out_of_reach(self) -> dict[str, Any]:
        route = self.route
        said = {} if route.unreachable is Unreachable.REFUSE else {"unreachable": str(route.unreachable)}
        expires = route.policy_expires_seconds
        return said if expires is None else {**said, "policy_expires_seconds": expires}

    def _told(self, place: Place) -> dict[str, Any]:
        told = {"place": place.label, "kind": place.kind, "region": place.region, "model": place.model}
        policy = self.route.cascade
        return told if policy is None else {**told, "turn": policy.turn(place.model)}


def decide(asked: Asked, route: Route, places: Sequence[Place]) -> Decision:
    may: list[Place] = []
    out: list[tuple[Place, Verdict]] = []
    for place in places:
        verdict = judge(asked, route, place)
        if verdict is ADMITTED:
            may.append(place)
        else:
            out.append((place, verdict))
    if len(may) > 1:
        may.sort(
            key=lambda place: (_turn(route, place), score(asked, route, place), place.label, place.model)
        )
    return Decision(asked, route, tuple(may), tuple(out))


def _turn(route: Route, place: Place) -> int:
    """Of a cascade, who is asked first comes first."""
    return 0 if route.cascade is None or route.cascade.turn(place.model) == "first" else 1
