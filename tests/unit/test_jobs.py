"""Whose turn a job is: at any time one node's, and nobody's while there is a lease."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from atoll.router.jobs.turns import Claim, Job, Leave, Take, Wait, decide, pause_seconds, turns
from atoll.router.placing.eligible import narrowest

NODES = (1, 2, 3, 4)
JOB = Job(77, "m", 9, made_at=1000.0, deadline=9000.0, turn_seconds=12, tries_max=5, nodes=NODES)


@pytest.mark.parametrize("seed", range(20))
def test_one_node_may_begin_at_a_time_and_everybody_comes_to_it(seed: int) -> None:
    chance = random.Random(seed)
    job = replace(JOB, id=chance.getrandbits(60), nodes=tuple(range(1, chance.randint(3, 9))))
    began: list[int] = []
    for tick in range(12 * len(job.nodes) * 2):
        now = job.made_at + tick
        taking = [node for node in job.nodes if isinstance(decide(job, node, now), Take)]
        assert len(taking) <= 1
        began += taking
        for node in job.nodes:
            if isinstance(found := decide(job, node, now), Wait):
                assert isinstance(decide(job, node, now + found.seconds + 0.001), Take)
    assert set(began) == set(job.nodes)


def test_who_asked_is_first_and_the_others_are_spread() -> None:
    assert turns(5, 3, NODES)[0] == 3
    firsts = [turns(job, 9, NODES)[0] for job in range(400)]
    assert all(60 < firsts.count(node) < 140 for node in NODES)


def test_a_lease_of_another_keeps_off_until_it_has_run_out() -> None:
    first, second = turns(JOB.id, JOB.asked_by, NODES)[:2]
    leased = replace(JOB, claims=(Claim(first, until=1020.0),))
    assert decide(leased, second, 1013.0) == Wait(7.0)
    assert decide(leased, second, 1020.5) == Take()
    assert decide(leased, first, 1013.0) == Take(), "its own, from before it was started again"


def test_the_only_node_begins_at_any_time() -> None:
    alone = replace(JOB, nodes=(2,))
    assert decide(alone, 2, 1011.9) == Take()
    assert decide(alone, 3, 1000.0) == Leave()
    failed = replace(alone, claims=(Claim(2, None, 1, 1100.0),))
    assert decide(failed, 2, 1040.0) == Wait(60.0)
    assert decide(replace(alone, claims=(Claim(2, None, 5),)), 2, 1100.0) == Leave()
    assert decide(alone, 2, 9000.0) == Leave()


def test_pauses_grow_to_a_bound() -> None:
    assert [pause_seconds(tries) for tries in (0, 1, 5, 100)] == [1.0, 2.0, 32.0, 300.0]


@pytest.mark.parametrize(
    ("scopes", "found"),
    [
        ([], "global"),
        (["global", "region:eu"], "region:eu"),
        (["region:eu", "region:us"], "local"),
        (["region:eu", "node:3"], "node:3"),
        (["node:3", "node:4"], "local"),
        (["global", "local"], "local"),
    ],
)
def test_a_job_is_kept_where_all_of_its_scopes_are(scopes: list[str], found: str) -> None:
    assert narrowest(scopes) == found
