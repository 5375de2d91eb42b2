"""Pieces of files that a node lacks, passed on from its own peers, so that edges below a hub share them.

Nothing is kept or looked at: who asked checks the whole file. A request says whom it has reached, or will
reach without this node's doing; nobody among them is asked again, so that it goes in no circle, and nowhere
in a full mesh.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import AtollError, DataError
from atoll.link.peers import Links

AT_ONCE_MAX = 4
TIMES_MAX = 3  # on the way of one piece
SEEN_MAX = 256
REMEMBERED_MAX = 64


@dataclass(frozen=True)
class Step:
    """What to do with a request: these peers are asked, in this order, and told this of its way."""

    peers: Sequence[int]
    seen: Sequence[int]
    times: int


def next_step(asked: Mapping[str, Any], asker: int, peers: Sequence[int], likely: int | None) -> Step | None:
    """None where the request is not to be passed on, or has come far enough. Nothing in it is believed."""
    seen, times = asked.get("seen"), asked.get("passed_on")
    if not isinstance(seen, list) or not all(type(number) is int for number in seen):
        return None
    if type(times) is not int or not 0 <= times < TIMES_MAX:
        return None
    others = [number for number in peers if number != asker and number not in seen]
    if not others or len(seen) + len(others) >= SEEN_MAX:
        return None
    others.sort(key=lambda number: number != likely)
    return Step(others, [*seen, asker, *others], times + 1)


class Relay:
    def __init__(self, method: str, seconds_max: float) -> None:
        self._method = method
        self._seconds_max = seconds_max
        self._under_way = 0
        self._gave: dict[str, int] = {}  # the peer that gave a file last

    async def pass_on(
        self, links: Links, peers: Sequence[int], asker: int, asked: Mapping[str, Any]
    ) -> dict[str, Any]:
        sha256 = asked["sha256"]
        step = next_step(asked, asker, peers, self._gave.get(sha256))
        # Too many means no, not wait: nodes that waited for each other would do so for good.
        if step is None or self._under_way >= AT_ONCE_MAX:
            raise _elsewhere()
        told = {
            "sha256": sha256,
            "offset": asked["offset"],
            "seen": list(step.seen),
            "passed_on": step.times,
        }
        seconds = self._seconds_max * (1 - step.times / (TIMES_MAX + 1))  # less than the asker waits
        self._under_way += 1
        try:
            async with asyncio.timeout(seconds):
                for peer in step.peers:
                    try:
                        answer = await links.request(peer, self._method, told)
                    except AtollError:
                        continue
                    self._remember(sha256, peer)
                    return {"data": answer["data"]}
        except TimeoutError:
            pass  # nobody gave it in time
        finally:
            self._under_way -= 1
        raise _elsewhere()

    def _remember(self, sha256: str, peer: int) -> None:
        self._gave.pop(sha256, None)
        self._gave[sha256] = peer
        if len(self._gave) > REMEMBERED_MAX:
            del self._gave[next(iter(self._gave))]


def _elsewhere() -> DataError:
    return DataError("model-file-elsewhere", "neither this node nor a peer of it has that file")
