"""The topology of any fleet: everybody is reached, nobody has many links, little moves when one joins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.data.replication.topology import (
    UPSTREAMS_MAX,
    Member,
    Role,
    Tie,
    Tier,
    Topology,
    choose_upstream,
    plan,
)

MIRROR = {
    Role.UP: Role.DOWN,
    Role.DOWN: Role.UP,
    Role.SIDE: Role.SIDE,
    Role.TIE: Role.TIE,
    Role.KIN: Role.KIN,
}
TIERS: tuple[Tier, ...] = ("edge", "hub", "cloud")
REGIONS = ("eu", "in", "us")
EXAMPLES = settings(derandomize=True, deadline=None, max_examples=300)


@st.composite
def fleets(draw: st.DrawFn) -> list[Member]:
    numbers = draw(st.lists(st.integers(1, 40_000), min_size=1, max_size=24, unique=True))
    return [Member(n, draw(st.sampled_from(REGIONS)), draw(st.sampled_from(TIERS))) for n in numbers]


@st.composite
def ties_of(draw: st.DrawFn) -> tuple[list[Member], list[Tie]]:
    members = draw(fleets())
    pairs = st.tuples(st.sampled_from(members), st.sampled_from(members), st.booleans())
    return members, [Tie(a.number, b.number, cut) for a, b, cut in draw(st.lists(pairs, max_size=6))]


def reached(numbers: Iterable[int], links: Iterable[tuple[int, int]]) -> list[set[int]]:
    """The parts of a graph that hang together."""
    part = {n: {n} for n in numbers}
    for a, b in links:
        if part[a] is not part[b]:
            part[a] |= part[b]
            for n in part[b]:
                part[n] = part[a]
    return list({id(p): p for p in part.values()}.values())


@EXAMPLES
@given(ties_of())
def test_both_ends_know_a_link_and_what_they_are_to_each_other(fleet: tuple[list[Member], list[Tie]]) -> None:
    topology = plan(*fleet)
    for a, roles in topology.neighbours.items():
        assert a not in roles
        for b, role in roles.items():
            assert topology.neighbours[b][a] is MIRROR[role]


@EXAMPLES
@given(fleets())
def test_everybody_is_reached_and_within_a_region_without_leaving_it(members: list[Member]) -> None:
    links = list(plan(members).links())
    assert len(reached([m.number for m in members], links)) == 1
    region = {m.number: m.region for m in members}
    for name in set(region.values()):
        inside = [n for n in region if region[n] == name]
        assert len(reached(inside, [(a, b) for a, b in links if region[a] == region[b] == name])) == 1, name


@EXAMPLES
@given(fleets())
def test_everybody_is_reached_over_the_preferred_upstreams_alone(members: list[Member]) -> None:
    topology = plan(members)
    first = {n: ups[0] for n, ups in topology.upstreams.items() if ups}
    used = [
        (a, b)
        for a, b in topology.links()
        if topology.neighbours[a][b] not in (Role.UP, Role.DOWN) or first.get(a) == b or first.get(b) == a
    ]
    assert len(reached([m.number for m in members], used)) == 1


@EXAMPLES
@given(fleets())
def test_a_node_has_few_links(members: list[Member]) -> None:
    topology = plan(members)
    tier = {m.number: m.tier for m in members}
    region = {m.number: m.region for m in members}
    best = max(TIERS.index(t) for t in tier.values())
    for n, roles in topology.neighbours.items():
        count = Counter(roles.values())
        assert count[Role.UP] == len(topology.upstreams[n]) <= UPSTREAMS_MAX
        assert all(TIERS.index(tier[up]) > TIERS.index(tier[n]) for up in topology.upstreams[n])
        tops = [m for m in tier if TIERS.index(tier[m]) == best]
        peers = [m for m in tier if tier[m] == tier[n] and region[m] == region[n]]
        allowed = len(tops) - 1 if n in tops else len(peers) - 1
        assert count[Role.SIDE] <= allowed
        if any(tier[m] != "edge" and region[m] == region[n] for m in tier):
            assert count[Role.KIN] == 0
            assert tier[n] != "edge" or len(roles) <= UPSTREAMS_MAX


@EXAMPLES
@given(fleets(), st.permutations(range(24)))
def test_it_follows_from_who_there_is_and_not_from_the_order(
    members: list[Member], order: Sequence[int]
) -> None:
    shuffled = [members[i] for i in order if i < len(members)]
    assert plan(shuffled) == plan(members)


@EXAMPLES
@given(fleets())
def test_an_edge_that_joins_moves_nobody_else(members: list[Member]) -> None:
    region = next((m.region for m in members if m.tier == "hub"), None)
    if region is None:
        return
    new = Member(50_000, region, "edge")
    before, after = plan(members), plan([*members, new])
    assert before.upstreams == {n: ups for n, ups in after.upstreams.items() if n != new.number}
    assert before.neighbours == {
        n: {to: role for to, role in roles.items() if to != new.number}
        for n, roles in after.neighbours.items()
        if n != new.number
    }


def company(edges: int, hubs: int = 4) -> list[Member]:
    upper = [Member(n, REGIONS[n % 3], "cloud") for n in range(1, 4)]
    middle = [Member(10 + n, REGIONS[n % 3], "hub") for n in range(3 * hubs)]
    return [*upper, *middle, *(Member(1000 + n, REGIONS[n % 3], "edge") for n in range(edges))]


def test_a_hub_that_joins_takes_its_share_and_moves_no_others() -> None:
    members = company(900)
    before, after = plan(members), plan([*members, Member(9, "eu", "hub")])
    changed = [n for n, ups in before.upstreams.items() if after.upstreams[n] != ups]
    assert all(9 in after.upstreams[n] for n in changed)
    # Of five hubs each edge of the region has two, so two fifths of 300 edges have the new one.
    assert 80 <= len(changed) <= 160, len(changed)
    assert all(set(after.upstreams[n]) - {9} <= set(before.upstreams[n]) for n in changed)


def test_edges_spread_over_the_hubs_of_their_region() -> None:
    topology = plan(company(900))
    first = Counter(ups[0] for n, ups in topology.upstreams.items() if n >= 1000)
    assert len(first) == 12
    assert all(50 <= count <= 100 for count in first.values()), first
    assert all(len(topology.neighbours[n]) == 2 for n in range(1000, 1900))


def test_a_tie_carries_everything_and_a_cut_link_is_no_upstream() -> None:
    members = company(9)
    plain = plan(members)
    edge, up = 1000, plain.upstreams[1000][0]
    tied = plan(members, [Tie(1000, 1001)])
    assert tied.neighbours[1000][1001] is tied.neighbours[1001][1000] is Role.TIE
    cut = plan(members, [Tie(up, edge, is_cut=True)])
    assert up not in cut.neighbours[edge]
    assert edge not in cut.neighbours[up]
    assert cut.upstreams[edge] == [n for n in plain.upstreams[edge] if n != up]
    lifted = plan(members, [Tie(up, edge)])
    assert lifted.neighbours[edge][up] is Role.TIE, "tied by hand, it is no upstream that may stand by"
    assert up not in lifted.upstreams[edge]


def test_ties_of_strangers_and_of_a_node_with_itself_do_nothing() -> None:
    members = company(3)
    assert plan(members, [Tie(1, 77_777), Tie(1000, 1000)]) == plan(members)


@pytest.mark.parametrize("tier", TIERS)
def test_nodes_of_one_tier_are_a_full_mesh(tier: Tier) -> None:
    topology = plan([Member(n, REGIONS[n % 3], tier) for n in range(1, 9)])
    assert {len(roles) for roles in topology.neighbours.values()} == {7}
    assert not any(topology.upstreams.values())


def test_a_region_without_a_hub_hangs_off_the_cloud_and_its_edges_know_each_other() -> None:
    topology = plan([Member(1, "us", "cloud"), Member(2, "eu", "edge"), Member(3, "eu", "edge")])
    assert topology.neighbours[2] == {1: Role.UP, 3: Role.KIN}


def test_nobody_at_all() -> None:
    assert plan([]) == Topology({}, {})


CASES: Mapping[str, tuple[Sequence[int], int | None, dict[int, float], dict[int, float], int | None]] = {
    "nothing above": ((), None, {}, {}, None),
    "what was used is no upstream any more, and there is none": ((), 7, {}, {7: 99.0}, None),
    "the preferred one at first": ((1, 2), None, {}, {1: 0.0, 2: 0.0}, 1),
    "the one that is there at first": ((1, 2), None, {1: 0.0}, {2: 5.0}, 2),
    "none is there at first": ((1, 2), None, {1: 0.0, 2: 0.0}, {}, 1),
    "it stays while it is there": ((1, 2), 1, {}, {1: 3.0, 2: 500.0}, 1),
    "it stays while it may come back": ((1, 2), 1, {1: 9.9}, {2: 500.0}, 1),
    "the other one after that": ((1, 2), 1, {1: 10.0}, {2: 500.0}, 2),
    "none is there": ((1, 2), 1, {1: 99.0, 2: 99.0}, {}, 1),
    "not back at once": ((1, 2), 2, {}, {1: 59.0, 2: 500.0}, 2),
    "back when it has held": ((1, 2), 2, {}, {1: 60.0, 2: 500.0}, 1),
    "back at once when the other has gone": ((1, 2), 2, {2: 10.0}, {1: 1.0}, 1),
    "not to one that is away": ((1, 2), 2, {1: 99.0}, {2: 500.0}, 2),
    "the one in use has been cut": ((1, 2), 7, {}, {1: 1.0, 2: 1.0}, 1),
}


@pytest.mark.parametrize("case", CASES)
def test_which_upstream_is_used(case: str) -> None:
    ranked, in_use, down, up, chosen = CASES[case]
    assert choose_upstream(ranked, in_use=in_use, down_seconds=down, up_seconds=up) == chosen
