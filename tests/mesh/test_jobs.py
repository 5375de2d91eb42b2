"""Jobs on several nodes: one that cannot be done here is done where the model is, once, whatever breaks."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Any

import pytest

from support.fix_mesh import Mesh, MeshMaker, MeshNode
from support.fix_models import TinyModel

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]

ENDED = "select state = 'done', result, done_by, tries from atoll.jobs where id = %s"


async def call(node: MeshNode, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    assert node.running is not None
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(f"{node.running.http}{path}", data, headers)

    def ask() -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    return await asyncio.to_thread(ask)


def chat(tokens: int = 4, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "What is an atoll?"}
    return {"model": "tiny", "messages": [message], "temperature": 0, "max_tokens": tokens, **more}


async def place(mesh: Mesh, tiny: TinyModel, *places: str) -> None:
    """The model, on these nodes only."""
    home = ("--home", str(mesh.nodes[0].home))
    first, *others = places
    await mesh.run("model", "add", str(tiny.file), "--name", "tiny", "--on", first, *home)
    want = "select atoll.want_model('tiny', (select version from atoll.model where name = 'tiny'), %s)"
    for name in others:
        await mesh.sql(mesh.nodes[0], want, name)
    for node in mesh.nodes:
        if node.name in places:
            await mesh.until(node, "select state <> 'fetching' from atoll.model_state where model = 'tiny'")
        known = "select count(*) = %s from atoll.desired_model where model = 'tiny'"
        await mesh.until(node, known, len(places))


async def test_a_job_waits_for_the_link_and_its_result_comes_back_once(
    make_mesh: MeshMaker, tiny_gguf: TinyModel
) -> None:
    mesh = await make_mesh("18", "18")
    one, two = mesh.nodes
    await place(mesh, tiny_gguf, "n2")
    home = ("--home", str(one.home))
    await mesh.run("route", "set", "ask", "--model", "tiny", "--label", "patient=local", *home)
    await mesh.until(two, "select count(*) = 1 from atoll.route")
    link = mesh.between(one, two)
    await link.cut()
    status, refused = await call(one, "/v1/chat/completions", chat())
    assert (status, refused["error"]["code"]) == (404, "model-unknown")
    jobs = []
    for number in range(6):
        status, told = await call(one, "/v1/chat/completions", chat(number + 1, queue=True))
        assert (status, told["state"]) == (202, "waiting")
        jobs.append(told)
    status, stays = await call(one, "/v1/chat/completions", chat(queue={"scope": "local"}))
    assert status == 202
    routed = {**chat(2), "model": "ask", "queue": True}
    status, told = await call(one, "/v1/chat/completions", routed)
    assert (status, told["scope"]) == (202, "global")
    jobs_by_route = [told]
    status, told = await call(one, "/v1/chat/completions", routed, **{"x-atoll-label": "patient"})
    assert (status, told["scope"]) == (202, "local")
    jobs_by_route.append(told)
    status, told = await call(one, "/v1/chat/completions", routed, **{"x-atoll-place": "here"})
    assert (status, told["error"]["code"]) == (400, "request-malformed")
    await mesh.app(two, "select pg_notify('atoll_jobs', 'nonsense')")  # anybody may, and nothing ends
    ((by_sql,),) = await mesh.app(one, "select atoll.ask_later('tiny', %s)", json.dumps(chat(3)))

    await mesh.kill(one)
    await mesh.up(one)
    assert (await call(one, jobs[0]["url"]))[1]["state"] == "waiting"
    waiting = asyncio.create_task(call(one, f"{jobs[0]['url']}?wait=60"))
    await link.calm()
    status, told = await waiting
    assert (told["state"], told["done_by"]) == ("done", "n2")
    assert told["result"]["usage"]["completion_tokens"] == 1
    for number, job in enumerate(jobs):
        rows = await mesh.until(one, ENDED, job["id"])
        assert rows[0][1]["usage"]["completion_tokens"] == number + 1
        assert rows[0][2:] == ("n2", 0)
    await mesh.until(one, ENDED, by_sql)
    rows = await mesh.until(one, ENDED, jobs_by_route[0]["id"])
    assert rows[0][1]["usage"]["completion_tokens"] == 2
    for kept in (stays, jobs_by_route[1]):
        assert (await call(one, kept["url"]))[1]["state"] == "waiting"
        assert await mesh.sql(two, "select count(*) from atoll.job where id = %s", kept["id"]) == [(0,)]
    await mesh.catch_up()
    outcomes = await mesh.same("select id, outcome from atoll.job where scope = 'global' order by id")
    assert len(outcomes) == len(jobs) + 2
    assert all(outcome["state"] == "done" for _, outcome in outcomes)


async def test_a_worker_is_killed_in_the_middle_and_another_takes_over(
    make_mesh: MeshMaker, tiny_gguf: TinyModel
) -> None:
    mesh = await make_mesh("18", "18", "18")
    one, two, three = mesh.nodes
    await place(mesh, tiny_gguf, "n2", "n3")
    jobs = [(await call(one, "/v1/chat/completions", chat(1500, queue=True)))[1] for _ in range(2)]
    jobs += [(await call(one, "/v1/chat/completions", chat(3, queue=True)))[1] for _ in range(4)]
    rows = await mesh.until(
        one, "select done_by is not null, done_by from atoll.jobs where state = 'working'"
    )
    killed = two if rows[0][1] == "n2" else three
    await mesh.kill(killed)
    for job in jobs:
        await mesh.until(one, ENDED, job["id"])
    stays = {"scope": "local"}
    cancelled = (await call(one, "/v1/chat/completions", chat(queue=stays)))[1]
    home = ("--home", str(one.home))
    assert "is cancelled" in await mesh.run("job", "cancel", cancelled["id"], *home)
    assert "before" in await mesh.run("job", "cancel", cancelled["id"], *home)
    await mesh.up(killed)
    await mesh.catch_up()
    found = await mesh.same("select id, outcome from atoll.job where scope = 'global' order by id")
    assert [str(id) for id, _ in found] == [job["id"] for job in jobs]
    assert [outcome["state"] for _, outcome in found] == ["done"] * len(jobs)
    assert len({outcome["result"]["choices"][0]["message"]["content"] for _, outcome in found[2:]}) == 1
    listed = json.loads(await mesh.run("job", "list", "--json", *home))
    assert {row["state"] for row in listed} == {"done", "cancelled"}


async def test_budgets_are_split_over_nodes_and_an_island_spends_what_it_holds(make_mesh: MeshMaker) -> None:
    mesh = await make_mesh("18", "18")
    one, two = mesh.nodes
    # A period that is far from its end: towards it, leases of the next one are asked for.
    period_hours = next(hours for hours in range(1, 100) if time.time() % (hours * 3600) < hours * 1800)
    await mesh.sql(
        one, "select atoll.set_budget('cloud', 8000, 'tokens', %s * interval '1 hour')", period_hours
    )
    for node in mesh.nodes:
        await mesh.until(node, "select drawn > 0 from atoll.budget_lease where node = atoll.me()")
    await mesh.between(one, two).cut()
    period = "(select max(period) from atoll.budget_lease)"
    take = f"select count(*) from atoll.move_lease('cloud', {period}, 8000, %s, 0)"
    ((held,),) = await mesh.sql(
        two, "select granted - returned - drawn from atoll.budget_lease where node = atoll.me()"
    )
    assert 0 < held < 4000
    assert await mesh.sql(two, take, held + 1) == [(0,)]
    assert await mesh.sql(two, take, held) == [(1,)]
    assert await mesh.sql(two, take, 1) == [(0,)], "an island fails closed"
    await mesh.between(one, two).calm()
    await mesh.until(two, "select granted > 1000 from atoll.budget_lease where node = atoll.me()")
    ((total,),) = await mesh.sql(one, "select sum(granted - returned) from atoll.budget_lease")
    assert total <= 8000
