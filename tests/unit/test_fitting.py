"""Where a model fits: never more on a node than it has, every layer once, and on as few nodes as can be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from atoll.registry.formats.gguf import layer_bytes, read_tensors
from atoll.serving.fitting import (
    SPLIT_NODES_MAX,
    Needs,
    Output,
    Part,
    Plan,
    Room,
    needs_of,
    plan,
    split,
    split_around,
)
from atoll.start import start_models

THREE = Needs(whole=100, layers=(25, 25, 25), head=25, part=10)


def room(node: str, most: int, taken: int = 0, region: str = "eu") -> Room:
    return Room(node, region, most, taken)


@st.composite
def wishes(draw: st.DrawFn) -> Needs:
    layers = tuple(draw(st.lists(st.integers(1, 30), max_size=7)))
    head = draw(st.integers(1, 40))
    return Needs(sum(layers) + head, layers, head, draw(st.integers(1, 20)))


@st.composite
def fleets(draw: st.DrawFn) -> list[Room]:
    sizes = draw(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 60), st.booleans()), max_size=5))
    return [room(f"n{i}", most, taken, "us" if far else "eu") for i, (most, taken, far) in enumerate(sizes)]


def can_hold(needs: Needs, sizes: Sequence[int]) -> bool:
    """Whether nodes hold the model in this order, tried as simply as can be."""
    left = list(needs.layers)
    for number, size in enumerate(sizes):
        size -= needs.part if number else needs.head
        if number == 0 and size < 0:
            return False
        while left and left[0] <= size:
            size -= left.pop(0)
    return not left


def fewest(needs: Needs, rooms: Sequence[Room], *, free: bool) -> int | None:
    """Of all orders of all nodes of a region, the shortest that holds the model."""
    counts = [
        count
        for region in ("eu", "us")
        for sizes in [[one.free if free else one.bytes_max for one in rooms if one.region == region]]
        for count in range(2, len(sizes) + 1)
        if any(can_hold(needs, order) for order in permutations(sizes, count))
    ]
    return min(counts, default=None) if needs.layers else None


@given(needs=wishes(), rooms=fleets())
def test_no_node_is_given_more_than_it_has_and_every_layer_has_one_place(
    needs: Needs, rooms: list[Room]
) -> None:
    made = plan(needs, rooms)
    known = {one.node: one for one in rooms}
    for part in made.parts:
        there = known[part.node]
        assert part.bytes <= (there.bytes_max if made.makes_room else there.free)
    if made.parts:
        assert [layer for part in made.parts for layer in part.layers] == list(range(len(needs.layers)))
        assert len({part.node for part in made.parts}) == len(made.parts)
        assert len({known[part.node].region for part in made.parts}) == 1
        besides = needs.head + needs.part * (len(made.parts) - 1)
        assert sum(part.bytes for part in made.parts) == sum(needs.layers) + besides
        assert made.missing_bytes == 0
    else:
        assert made.missing_bytes > 0


@given(needs=wishes(), rooms=fleets())
def test_a_plan_is_as_small_as_any_that_there_is(needs: Needs, rooms: list[Room]) -> None:
    made = plan(needs, rooms)
    if any(needs.whole <= one.free for one in rooms):
        wanted: tuple[int | None, bool] = (1, False)
    elif any(needs.whole <= one.bytes_max for one in rooms):
        wanted = (1, True)
    elif (count := fewest(needs, rooms, free=True)) is not None:
        wanted = (count, False)
    else:
        wanted = (fewest(needs, rooms, free=False), True)
    found = len(made.parts) or None
    assert (found, made.makes_room) == (wanted if wanted[0] is not None else (None, False))


def test_the_node_with_most_free_comes_before_one_that_would_have_to_make_room() -> None:
    assert plan(THREE, [room("a", 120, 10), room("b", 900, 850)]).parts == (Part("a", range(3), 100),)
    made = plan(THREE, [room("a", 99), room("b", 900, 850)])
    assert made == Plan((Part("b", range(3), 100),), makes_room=True)


def test_a_split_keeps_the_order_of_layers_and_stays_in_one_region() -> None:
    rooms = [room("a", 60), room("b", 60), room("c", 99, region="us")]
    assert plan(THREE, rooms).parts == (Part("a", range(1), 50), Part("b", range(1, 3), 60))
    apart = [room("a", 60), room("b", 60, region="us")]
    assert plan(THREE, apart) == Plan(missing_bytes=40)


def test_who_is_to_begin_holds_the_first_layers_however_little_it_has() -> None:
    sizes = {"a": 50, "b": 60, "c": 99}
    assert split(THREE, sizes, head="a") == (Part("a", range(1), 50), Part("c", range(1, 3), 60))
    assert split(THREE, sizes)[0].node == "c"
    assert not split(THREE, {"a": 24, "b": 60, "c": 99}, head="a"), "what is in no layer has no room there"


def test_a_node_to_be_avoided_helps_only_where_it_does_not_go_without_it() -> None:
    sizes = {"a": 50, "b": 60, "c": 99}
    assert split_around(THREE, sizes, "a", {"b"}) == split(THREE, sizes, "a")
    assert split_around(THREE, sizes, "a", {"c"}) == (Part("a", range(1), 50), Part("b", range(1, 3), 60))
    assert split_around(THREE, {"a": 50, "c": 99}, "a", {"c"}) == split(THREE, {"a": 50, "c": 99}, "a")


def test_one_that_cannot_be_split_says_what_the_largest_node_lacks() -> None:
    assert plan(Needs(100), [room("a", 60), room("b", 90)]) == Plan(missing_bytes=10)
    assert plan(Needs(100), []) == Plan(missing_bytes=100)


def test_a_split_is_over_eight_nodes_at_most_and_found_at_once_for_many_layers() -> None:
    needs = needs_of(10_500, [100] * 99, Output(100), 0, 0.0, 1)
    assert needs.layers == (100,) * 100
    assert not plan(needs, [room(f"n{i:02}", 1001) for i in range(30)]).parts, "it would take eleven"
    made = plan(needs, [room(f"n{i:02}", 1401) for i in range(30)])
    assert len(made.parts) == SPLIT_NODES_MAX


def test_the_layers_of_a_real_file_and_what_is_in_none_come_to_the_whole() -> None:
    file: Path = next(model.path for model in start_models() if model.path.suffix == ".gguf")
    found, tensors = read_tensors(file)
    weights = layer_bytes(tensors.values())
    assert len(weights) == found.details["blocks"]
    assert sum(weights) < found.bytes
    assert sum(weights) > found.bytes // 4
    apart = needs_of(2 * found.bytes, weights, Output(5000), 1000, 0.1, 1)
    assert apart.head + sum(apart.layers) == apart.whole
    shared = needs_of(2 * found.bytes, weights, Output(5000, is_embedding=True), 1000, 0.1, 1)
    assert shared.head + sum(shared.layers[:-1]) == shared.whole, "the embedding stays where it is"
    assert shared.layers == apart.layers
    assert not needs_of(sum(weights), weights, Output(0), 0, 0.1, 1).layers, "it does not add up"
    torn = [tensor for name, tensor in tensors.items() if not name.startswith("blk.0.")]
    assert not layer_bytes(torn), "a file without its first layer is not taken apart"
