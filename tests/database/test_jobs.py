"""What holds of jobs and budgets whoever decides: leases, one outcome, the earlier of two, and no more than granted."""

from __future__ import annotations

import json

import psycopg
import pytest

from support.fix_nodes import Node, Nodes

BODY = json.dumps({"messages": [{"role": "user", "content": "Hello"}]})
HOUR = 3_600_000


def queue(node: Node, scope: str = "global") -> int:
    for one in ("insert into atoll.model_state (model, version, state) values ('m', '1', 'ready')",):
        node.owner(f"{one} on conflict do nothing")
    return int(node.value("select atoll.ask_later('m', %s, %s)", BODY, scope))


def state(node: Node, job: int) -> str:
    return str(node.owner("select state from atoll.jobs where id = %s", job)[0][0])


def test_a_lease_keeps_others_off_and_of_two_outcomes_the_earlier_holds(nodes: Nodes) -> None:
    one, two = nodes
    for node in nodes:
        node.clock(10 * HOUR)
    job = queue(one)
    nodes.sync()
    assert len(two.owner("select * from atoll.claim_job(%s)", job)) == 1
    nodes.sync()
    assert state(one, job) == "working"
    assert one.owner("select * from atoll.claim_job(%s)", job) == []
    one.clock(10 * HOUR + 12_001)
    assert len(one.owner("select * from atoll.claim_job(%s)", job)) == 1, "the lease ran out"

    end = "select atoll.end_job(%s, 'done', %s)"
    two.clock(10 * HOUR + 13_000)
    one.clock(10 * HOUR + 14_000)
    assert one.owner(end, job, '{"result": "later"}') == [(True,)]
    assert two.owner(end, job, '{"result": "earlier"}') == [(True,)]
    assert two.owner(end, job, '{"result": "again"}') == [(False,)]
    nodes.sync()
    for node in nodes:
        assert node.owner("select result, state from atoll.jobs where id = %s", job) == [("earlier", "done")]
        assert node.owner("select * from atoll.claim_job(%s)", job) == []
        assert node.owner("select atoll.cancel_job(%s)", job) == [(False,)]
    assert one.states("atoll.job") == two.states("atoll.job")


def test_a_job_that_failed_too_often_is_dead_until_it_is_retried(node: Node) -> None:
    node.clock(10 * HOUR)
    job = queue(node)
    for _ in range(10):
        node.owner("select atoll.claim_job(%s)", job)
        node.owner("select atoll.fail_job(%s, true, 1, 'it broke')", job)
    assert node.owner("select state, problem, tries from atoll.jobs") == [("dead", "it broke", 10)]
    assert node.owner("select * from atoll.open_jobs('{m}', 9)") == []
    assert node.value("select atoll.retry_job(%s)", job) is True
    assert node.value("select atoll.retry_job(%s)", job) is False
    assert state(node, job) == "waiting"
    node.clock(40 * HOUR)
    assert state(node, job) == "late"
    assert node.owner("select atoll.tidy_jobs(10)") == [(0,)]
    node.clock(70 * HOUR)
    assert node.owner("select atoll.tidy_jobs(10)") == [(1,)]
    assert node.owner("select count(*) from atoll.job_claim") == [(0,)]


def test_a_job_stays_in_its_scope(three_nodes: Nodes) -> None:
    one, two, three = three_nodes
    jobs = [queue(one, scope) for scope in ("global", "eu", "node:1", "local")]
    three_nodes.sync()
    known = [[row[0] for row in n.owner("select id from atoll.job order by id")] for n in (one, two, three)]
    assert known == [jobs, jobs[:2], jobs[:1]]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ("select atoll.ask_later('m', '[]')", "job-malformed"),
        ("select atoll.ask_later('m', '{}', path => '/v1/models')", "job-malformed"),
        ("select atoll.ask_later('m', '{}', deadline => '31 days')", "job-malformed"),
        ("select atoll.ask_later('m', '{}', tries => 0)", "job-malformed"),
        ("select atoll.ask_later('m', '{}', 'us')", "job-scope"),
        ("select atoll.ask_later('n', '{}')", "model-unknown"),
        ("select atoll.cancel_job(7)", "job-unknown"),
    ],
)
def test_what_cannot_be_queued_is_refused(node: Node, call: str, code: str) -> None:
    queue(node)
    with pytest.raises(psycopg.Error) as refused:
        node.run(call)
    assert refused.value.diag.constraint_name == code


@pytest.mark.parametrize("call", ["atoll.set_budget('B', 1)", "atoll.set_budget('b', 1, 'apples')"])
def test_a_budget_that_cannot_be_is_refused_and_applications_set_none(node: Node, call: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        node.owner(f"select {call}")
    assert refused.value.diag.constraint_name == "budget-malformed"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        node.run(f"select {call}")


def test_only_the_granter_grants_and_no_more_than_there_is(nodes: Nodes) -> None:
    one, two = nodes
    one.owner("select atoll.set_budget('b', 100, 'tokens')")
    nodes.sync()
    with pytest.raises(psycopg.Error, match="is granted by node 1"):
        two.owner("select atoll.set_budget('b', 200, 'tokens')")
    move, grant = (
        "select drawn from atoll.move_lease('b', 5, %s, %s, %s)",
        "select * from atoll.grant_lease('b', %s, 5, %s)",
    )
    one.owner(move, 50, 0, 0)
    two.owner(move, 90, 0, 0)
    nodes.sync()
    assert two.owner(grant, 2, 90) == []
    assert one.owner(grant, 2, 90) == [(90,)]
    assert one.owner(grant, 1, 11) == []
    assert one.owner(grant, 2, 80) == [], "nothing shrinks"
    assert two.owner(move, 90, 1, 0) == [], "it has not heard yet"
    nodes.sync()
    assert two.owner(move, 90, 20, 71) == []
    assert two.owner(move, 90, 20, 60) == [(20,)]
    assert one.owner(grant, 1, 11) == [], "it has not heard yet"
    nodes.sync()
    assert one.owner(grant, 1, 70) == [(70,)]
    assert one.owner(grant, 1, 71) == []
    nodes.sync()
    assert one.states("atoll.budget_lease") == two.states("atoll.budget_lease")
