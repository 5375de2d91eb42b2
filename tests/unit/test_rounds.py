"""Learning together, without a database or torch: what leaves a node, what counts, what comes of it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from atoll.domain.errors import DataError
from atoll.training import rounds
from atoll.training.rounds import Part, Wish

if TYPE_CHECKING:
    from atoll.training.rounds import Weights

SEED = 9
ANCHOR = -0.07079988
SHAPES = {"q": (6, 4), "v": (3, 4)}


def weights(value: float) -> Weights:
    return {name: np.full(shape, value, np.float32) for name, shape in SHAPES.items()}


def part(node: int, value: float, rows: int = 10) -> Part:
    return Part(node, rows, weights(value))


def test_the_mean_counts_rows_and_with_noise_nodes() -> None:
    parts = [part(1, 1.0, 10), part(2, 4.0, 30)]
    assert np.allclose(rounds.averaged(weights(2.0), parts, Wish())["q"], 2 + 3.25)
    assert np.allclose(rounds.averaged(weights(2.0), parts, Wish(noise=1.0))["q"], 2 + 2.5)


def test_a_trimmed_mean_stands_one_node_that_lies() -> None:
    parts = [part(node, 1.0 + node / 10) for node in range(5)]
    liar = replace(parts[4], moved=weights(-1e6))
    wish = Wish(way="trimmed", trim=0.2, clip=1e9)
    found = rounds.averaged(weights(0.0), [*parts[:4], liar], wish)["v"]
    assert float(found.min()) >= 1.0
    assert float(found.max()) <= 1.3
    assert np.allclose(rounds.averaged(weights(0.0), parts[:1], wish)["v"], 1.0), (
        "one node is never trimmed away"
    )


def test_what_leaves_a_node_is_no_longer_than_the_clip() -> None:
    print(f"seed {SEED}")
    chance = np.random.default_rng(SEED)
    left = rounds.leaving(weights(5.0), Wish(clip=2.0), chance)
    assert math.isclose(rounds.length(left), 2.0, rel_tol=1e-5)
    assert np.allclose(left["q"] / left["q"][0, 0], 1.0), "its direction stays"
    short = rounds.leaving(weights(0.01), Wish(clip=2.0), chance)
    assert np.allclose(short["q"], 0.01)


def test_noise_is_as_wide_as_was_said() -> None:
    print(f"seed {SEED}")
    still = {"q": np.zeros((400, 250), np.float32)}
    left = rounds.leaving(still, Wish(clip=3.0, noise=0.5), np.random.default_rng(SEED))["q"]
    assert abs(float(left.std()) - 1.5) < 0.02
    assert abs(float(left.mean())) < 0.02


@pytest.mark.parametrize(("noise", "count"), [(1.0, 1), (4.0, 5), (20.0, 10)])
def test_epsilon_is_what_two_bells_side_by_side_say(noise: float, count: int) -> None:
    """By summing up how much likelier one of them makes what is seen than epsilon allows."""
    epsilon, mu = rounds.epsilon(noise, count), 2 / noise * math.sqrt(count)
    at = np.linspace(-40, 40, 2_000_001)
    near, far = np.exp(-(at**2) / 2), np.exp(-((at - mu) ** 2) / 2)
    density = np.maximum(far - math.exp(epsilon) * near, 0) / math.sqrt(2 * math.pi)
    assert math.isclose(float(density.sum() * (at[1] - at[0])), rounds.DELTA, rel_tol=1e-2)
    assert rounds.epsilon(0.0, count) == math.inf
    assert rounds.epsilon(noise * 2, count) < epsilon < rounds.epsilon(noise, count + 1)


def test_a_part_that_would_spoil_the_others_work_does_not_count() -> None:
    like, wish = weights(0.0), Wish(clip=3.0)
    assert rounds.problem(part(1, 0.1), like, wish) is None
    assert "another adapter" in str(rounds.problem(Part(1, 1, {"q": like["q"]}), like, wish))
    assert "not numbers" in str(rounds.problem(part(1, math.nan), like, wish))
    assert "is the most" in str(rounds.problem(part(1, 9.0), like, wish))
    noisy = Wish(clip=3.0, noise=2.0)
    left = rounds.leaving(weights(5.0), noisy, np.random.default_rng(SEED))
    assert rounds.problem(Part(1, 1, left), like, noisy) is None, "noise is no lie"


def test_a_round_ends_with_the_last_node_or_with_the_others_time() -> None:
    wish = Wish(least=2, wait_seconds=60)
    assert rounds.is_due(3, 3, 0, wish)
    assert not rounds.is_due(2, 3, 59, wish)
    assert rounds.is_due(2, 3, 60, wish)
    assert not rounds.is_due(1, 3, 10_000, wish), "one node alone is no average"
    assert rounds.is_due(1, 1, 0, wish), "unless there is no other"


@pytest.mark.parametrize(
    ("newest", "judged", "sent", "is_ended", "step"),
    [
        (None, None, None, False, "wait"),
        (None, None, None, True, "done"),
        (0, None, None, False, "judge"),
        (0, 0, None, False, "learn"),
        (0, 0, 0, False, "wait"),
        (2, 0, 0, False, "judge"),
        (2, 2, 0, False, "learn"),
        (2, 2, 2, True, "done"),
        (3, 2, 2, False, "judge"),
        (3, 2, 2, True, "judge"),
        (3, 3, 2, False, "done"),
    ],
)
def test_a_node_does_the_next_thing_and_misses_nothing_that_is_over(
    newest: int | None, judged: int | None, sent: int | None, is_ended: bool, step: str
) -> None:
    assert rounds.next_step(newest, judged, sent, 3, is_ended) == step


def test_the_halves_that_stay_are_the_same_everywhere_and_differ_by_layer() -> None:
    shapes = {"a": (4, 16), "b": (4, 16)}
    one, other = rounds.first_halves(shapes, SEED), rounds.first_halves(dict(reversed(shapes.items())), SEED)
    assert all((one[name] == other[name]).all() for name in shapes)
    assert not (one["a"] == one["b"]).all()
    assert float(np.abs(one["a"]).max()) <= 0.25
    assert one["a"][0, 0] == pytest.approx(ANCHOR), "another version of numpy must not make others"


@pytest.mark.parametrize(
    "told", [{"rounds": 0}, {"way": "median"}, {"trim": 0.5}, {"unknown": 1}, {"clip": -1}]
)
def test_a_wish_that_makes_no_sense_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(DataError) as caught:
        rounds.read_wish(told)
    assert caught.value.code == "tuning-malformed"
    assert rounds.read_wish(Wish(rank=4).told()) == Wish(rank=4)


def test_late_and_absent_nodes_are_normal() -> None:
    """Each node is drawn to a place of its own; whoever is there learns, and all come near the middle."""
    print(f"seed {SEED}")
    chance = random.Random(SEED)
    places = {1: 1.0, 2: 2.0, 3: 6.0}
    wish = Wish(clip=100.0, least=2, wait_seconds=10)
    begun = weights(0.0)
    for _ in range(60):
        there = [node for node in places if chance.random() < 0.7]
        if not rounds.is_due(len(there), len(places), 10, wish):
            continue
        parts = [
            Part(node, 10, {name: (places[node] - one) * 0.3 for name, one in begun.items()})
            for node in there
        ]
        begun = rounds.averaged(begun, parts, wish)
    assert abs(float(begun["q"].mean()) - 3.0) < 1.5
