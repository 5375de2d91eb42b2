"""Learning together without moving rows: what leaves a node, what it comes to, when a round is over. Pure.

Of an adapter's two halves, the first is made from the tuning's seed, the same everywhere, and stays; nodes
train the second alone. So the mean of what nodes learned is exactly the mean of what it does, which it is not
where both halves are averaged. What leaves a node is how far its half moved in the round: cut to a length, so
that no node counts for more than that, and, if wished, hidden in noise before it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from atoll.domain.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights: TypeAlias = dict[str, NDArray[np.float32]]

WAYS = ("mean", "trimmed")
PIECE_BYTES = 256 * 1024
PIECES_MAX = 256
DELTA = 1e-5


@dataclass(frozen=True)
class Wish:
    """What every node of a tuning does alike."""

    rounds: int = 5
    steps: int = 50  # of each round, on each node
    batch: int = 8
    rate: float = 1e-3
    rank: int = 16
    tokens: int = 512
    held_out: float = 0.2
    seed: int = 0
    clip: float = 10.0
    noise: float = 0.0  # beside the clip: its standard deviation
    way: str = "mean"
    trim: float = 0.2  # share of the least and of the greatest values that trimming leaves out
    least: int = 2  # nodes without which nothing is averaged
    wait_seconds: float = 3600.0  # for the others, once there are so many

    def told(self) -> dict[str, Any]:
        return asdict(self)


def read_wish(told: Any) -> Wish:
    """A row may come from a node that knows more or less than this one."""
    try:
        wish = Wish(**told)
        is_sane = (
            wish.way in WAYS
            and 1 <= wish.rounds <= 1000
            and 1 <= wish.steps <= 1_000_000
            and 1 <= wish.batch <= 1024
            and 1 <= wish.rank <= 512
            and 8 <= wish.tokens <= 131_072
            and 0 < wish.rate <= 1
            and 0 < wish.held_out < 1
            and wish.clip > 0
            and wish.noise >= 0
            and 0 <= wish.trim < 0.5
            and wish.least >= 1
            and wish.wait_seconds >= 0
        )
    except TypeError as error:
        raise DataError(
            "tuning-malformed", "cannot understand the tuning", detail=f"{error}.", hint="Upgrade this node."
        ) from error
    if not is_sane:
        raise DataError(
            "tuning-malformed", "a number of the tuning is out of bounds", hint="Open another one."
        )
    return wish


@dataclass(frozen=True)
class Part:
    """What one node learned in a round, from so many rows."""

    node: int
    rows: int
    moved: Weights


def length(weights: Weights) -> float:
    return math.sqrt(sum(float((one.astype("float64") ** 2).sum()) for one in weights.values()))


def leaving(moved: Weights, wish: Wish, chance: np.random.Generator) -> Weights:
    """What a node lets out of what it learned."""
    shorter = min(1.0, wish.clip / max(length(moved), 1e-12))
    found = {}
    for name, one in moved.items():
        cut = one * shorter
        if wish.noise:
            cut = cut + chance.normal(0.0, wish.noise * wish.clip, one.shape)
        found[name] = cut.astype("float32")
    return found


def problem(part: Part, like: Weights, wish: Wish) -> str | None:
    """Why a part cannot count, where it cannot: one node must not spoil the others' work."""
    import numpy as np

    if {name: one.shape for name, one in part.moved.items()} != {
        name: one.shape for name, one in like.items()
    }:
        return "it is for another adapter"
    if not all(bool(np.isfinite(one).all()) for one in part.moved.values()):
        return "it has weights that are not numbers"
    size = sum(one.size for one in like.values())
    # Noise adds to the length; six deviations of it are beyond chance.
    longest = wish.clip * (1.001 + wish.noise * (math.sqrt(size) + 6))
    if length(part.moved) > longest:
        return f"it moved by {length(part.moved):.3g}, and {longest:.3g} is the most"
    return None


def averaged(begun: Weights, parts: Sequence[Part], wish: Wish) -> Weights:
    """What the next round begins with. Noise hides a node only if all count the same."""
    import numpy as np

    if wish.way == "trimmed":
        cut = min(math.ceil(len(parts) * wish.trim), (len(parts) - 1) // 2)
        steps = {}
        for name in begun:
            ordered = np.sort(np.stack([part.moved[name] for part in parts]), axis=0)
            steps[name] = ordered[cut : len(parts) - cut].mean(0)
    else:
        weights = [1.0 if wish.noise else float(max(1, part.rows)) for part in parts]
        steps = {
            name: np.average(np.stack([part.moved[name] for part in parts]), axis=0, weights=weights)
            for name in begun
        }
    return {name: (begun[name] + steps[name]).astype("float32") for name in begun}


def is_due(have: int, nodes: int, age_seconds: float, wish: Wish) -> bool:
    """Whether a round is over: everybody's part is here, or enough are and the others had their time."""
    return have >= min(wish.least, nodes) and (have >= nodes or age_seconds >= wish.wait_seconds)


Step: TypeAlias = Literal["wait", "judge", "learn", "done"]


def next_step(newest: int | None, judged: int | None, sent: int | None, rounds: int, is_ended: bool) -> Step:
    """Of a node that takes part, by the newest round that has begun here and what this node did of it."""
    if newest is None:
        return "done" if is_ended else "wait"
    if judged is None or judged < newest:
        return "judge"
    if newest >= rounds or is_ended:
        return "done"
    return "wait" if sent is not None and sent >= newest else "learn"


def epsilon(noise: float, rounds: int, delta: float = DELTA) -> float:
    """How well a node's rows are hidden by the noise, all of them together, after so many rounds.

    Two lots of rows move what leaves by no more than twice the clip. Gaussian noise is then mu-private with
    mu = 2 / noise in each round, and the root of the rounds times that in all; the rest is what that is in
    epsilon and delta, exactly.
    """
    if not noise:
        return math.inf
    mu = 2 / noise * math.sqrt(rounds)

    def reached(at: float) -> float:
        return _normal(-at / mu + mu / 2) - math.exp(min(at, 700.0)) * _normal(-at / mu - mu / 2)

    low, high = 0.0, 1.0
    while reached(high) > delta:
        high *= 2
        if high > 600:
            return math.inf
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reached(middle) > delta else (low, middle)
    return high


def _normal(at: float) -> float:
    return 0.5 * math.erfc(-at / math.sqrt(2))


def first_halves(shapes: Mapping[str, tuple[int, int]], seed: int) -> Weights:
    """The halves that stay, by the names of their layers: the same on every machine."""
    import hashlib

    import numpy as np

    found: Weights = {}
    for name, shape in shapes.items():
        word = hashlib.sha256(f"{seed}:{name}".encode()).digest()
        chance = np.random.Generator(np.random.PCG64(int.from_bytes(word[:16], "big")))
        bound = 1 / math.sqrt(shape[1])
        found[name] = chance.uniform(-bound, bound, shape).astype("float32")
    return found
