"""A fleet of sixty under the plan and the rule of passing on: everybody gets what is theirs, and no more."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.data.replication.topology import Member, Tier
from simulation.fleet import Fleet, Outage, Write, make_members
from simulation.run import SECONDS, report, simulate

SIZE = 60
WRITES = 60
TIERS: tuple[Tier, ...] = ("edge", "hub", "cloud")
REGIONS = ("eu", "in", "us")


def test_in_calm_weather_each_change_reaches_each_node_in_its_scope_once() -> None:
    fleet = simulate(SIZE, WRITES, seed=1, is_stormy=False)
    assert not fleet.missing()
    assert not fleet.strayed()
    assert len([w for w in fleet.writes if not w.is_mark]) == WRITES
    for node in fleet.nodes.values():
        if node.member.tier != "hub":
            assert node.duplicates == 0, node.member


def test_hubs_of_a_region_tell_each_other_what_their_cloud_tells_them_too() -> None:
    """The price of a region that hangs together without its cloud: its own changes come to its hubs twice."""
    fleet = simulate(SIZE, WRITES, seed=1, is_stormy=False)
    for node in fleet.nodes.values():
        if node.member.tier == "hub":
            near = {n.member.number for n in fleet.nodes.values() if n.member.region == node.member.region}
            siblings = [w for w in fleet.writes if w.origin in near]
            assert 0 < node.duplicates < len(siblings)


def test_with_failures_each_change_reaches_each_node_in_its_scope() -> None:
    moves = dict.fromkeys(TIERS, 0)
    for seed in range(8):
        fleet = simulate(SIZE, WRITES, seed, is_stormy=True)
        assert not fleet.missing(), seed
        assert not fleet.strayed(), seed
        for node in fleet.nodes.values():
            moves[node.member.tier] += node.moves
    assert moves["edge"] > 0, "edges had to go to other hubs"
    assert moves["hub"] > 0, "and hubs to other clouds"


def test_an_edge_goes_on_while_its_hub_is_away() -> None:
    members = make_members(SIZE)
    fleet = Fleet(members)
    edge = fleet.nodes[1001]
    hub = edge.upstreams[0]
    writer = next(n for n in fleet.nodes.values() if n.member.tier == "edge" and n.upstreams[0] != hub)
    writes = [Write(float(at), writer.member.number, "global", 500) for at in range(5, 60)]
    fleet.run(writes, [Outage(hub, 10.0, 500.0)])
    late = [
        fleet.heard_at[n][1001] - w.at for n, w in enumerate(fleet.writes) if w.origin == writer.member.number
    ]
    assert max(late) < 20.0, "it waits some seconds for its hub, then takes the other"
    assert max(late[30:]) < 1.0
    assert edge.upstream == hub, "and goes back when it has been there for a while"
    assert edge.moves == 2


def test_the_same_seed_gives_the_same_weather() -> None:
    first, second = (list(report("x", simulate(SIZE, 20, 7, is_stormy=True))) for _ in range(2))
    assert first == second
    assert SECONDS > 0


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.sampled_from(REGIONS), st.sampled_from(TIERS)), min_size=1, max_size=16),
    st.randoms(use_true_random=False),
)
def test_any_fleet_carries_every_change_to_everybody_in_its_scope(
    places: list[tuple[str, Tier]], rng: random.Random
) -> None:
    members = [Member(n, region, tier) for n, (region, tier) in enumerate(places, start=1)]
    writes = [
        Write(float(n), m.number, scope, 500)
        for n, m in enumerate(rng.sample(members, len(members)))
        for scope in ("global", f"region:{m.region}")
    ]
    fleet = Fleet(members)
    fleet.run(writes)
    assert not fleet.missing()
    assert not fleet.strayed()
