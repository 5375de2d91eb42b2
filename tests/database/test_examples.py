"""What a cascade was not sure of is kept to learn from: both answers, in the scope of the request, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import pytest

from atoll.domain.models import Skill
from atoll.router.asked import read_asked
from atoll.router.cascades.examples import BYTES_MAX, Example, Examples, rows_as_examples
from atoll.router.placing.places import Terms
from atoll.router.service import Router
from atoll.runtimes.contract import Facts
from atoll.runtimes.echo import EchoRuntime
from atoll.serving.berth import Wanted
from atoll.serving.service import Serving
from support.fix_nodes import Node

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
CASCADE = {"first": "small", "measure": "mean_logprob", "threshold": 0.7, "keep": True}
ROUTE: dict[str, Any] = {
    "me": 1,
    "name": "ask",
    "models": {"here": ["small", "large"]},
    "prefer": ["here"],
    "deadline_seconds": 30,
    "first_token_seconds": None,
    "max_cost": None,
    "labels": {"patient": "local"},
    "hedge_after_seconds": None,
    "options": {"cascade": CASCADE},
}


class Site:
    """A node's router, whose models are echoes: they say nothing of how sure they are."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.serving = Serving(1000)
        self.examples = Examples(node.database.connect)
        self.router = Router(self.serving, "eu", lambda model: Terms(), examples=self.examples)

    def route(self, **changed: Any) -> None:
        self.router.set_routes([{**ROUTE, "options": {"cascade": {**CASCADE, **changed}}}])

    async def ask(self, words: str, label: str = "") -> None:
        body = {"model": "ask", "user": "somebody", "messages": [{"role": "user", "content": words}]}
        asked = read_asked(CHAT, Skill.GENERATE, "ask", body, {"x-atoll-label": label})
        async with self.router.generate(asked, body).answer() as events:
            assert [event async for event in events]

    async def rows(self, count: int, what: str = "*") -> list[tuple[Any, ...]]:
        async with asyncio.timeout(60):
            while self.node.owner("select count(*) from atoll.example") != [(count,)]:
                await asyncio.sleep(0.05)
        return self.node.owner(f"select {what} from atoll.examples order by id")


@pytest.fixture
async def site(node: Node) -> AsyncIterator[Site]:
    made, said = Site(node), Facts(frozenset(Skill), 0)

    def open_one() -> EchoRuntime:
        return EchoRuntime(context_tokens=10**6)

    echoes = [Wanted(name, "1", "f16", {}, said, True, open_one) for name in ("small", "large")]
    await made.serving.desire(echoes)
    tasks = [asyncio.create_task(work) for work in (made.serving.run(), made.examples.run())]
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_went_on_is_an_example_with_both_answers(site: Site) -> None:
    site.route()
    await site.ask("When is it paid?")
    what = (
        "route, first, then_model, confidence, scope, prompt, first_answer, answer, differs, asked ? 'user'"
    )
    (row,) = await site.rows(1, what)
    said = "When is it paid?"
    assert row == ("ask", "small", "large", None, "global", said, said, said, False, False)


async def test_an_example_stays_where_its_request_had_to_stay(site: Site) -> None:
    site.route()
    await site.ask("Who is ill?", "patient")
    assert await site.rows(1, "scope, prompt") == [("local", "Who is ill?")]


async def test_what_may_not_go_on_is_one_too_and_nothing_else_is_kept(site: Site) -> None:
    site.route(keep=False)
    await site.ask("unkept")
    site.route(measure="agreement")
    await site.ask("sure")
    site.route()
    await site.ask("x" * 2 * BYTES_MAX)
    site.router.set_routes([{**ROUTE, "models": {"here": ["small"], "peer": ["large"]}}])
    await site.ask("alone")
    rows = await site.rows(1, "prompt, first_answer, then_model, answer")
    assert rows == [("alone", "alone", None, None)]


async def test_examples_are_bounded_and_not_for_applications(site: Site) -> None:
    for number in range(8):
        site.examples.offer(Example("ask", CHAT, {"n": number}, "small", "score", "global"))
    site.examples.offer(Example("ask", CHAT, {}, "small", "score", "region:mars"))
    await site.rows(8)
    site.node.owner("update atoll.example set made_at = made_at + (asked->>'n')::int * interval '1 s'")
    site.node.owner("update atoll.example set made_at = made_at - interval '91 days' where asked->>'n' = '7'")
    site.node.owner("select atoll.tidy_examples(100, 5)")
    assert await site.rows(5, "asked->>'n'") == [(str(number),) for number in range(2, 7)]
    for table in ("example", "examples"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            site.node.run(f"select * from atoll.{table}")


def test_rows_of_a_tensor_request_are_examples_if_they_are_small() -> None:
    example = Example("ask", "/v2", {}, "small", "score", "global", 0.4, then="large")
    inputs, small, large = ({"x": np.arange(6.0).reshape(2, 3) + shift} for shift in (0, 10, 20))
    one, two = rows_as_examples(example, inputs, small, large)
    assert (one.asked, one.first_said, one.then_said) == (
        {"x": [0, 1, 2]},
        {"x": [10, 11, 12]},
        {"x": [20, 21, 22]},
    )
    assert two.then == "large"
    (alone, _) = rows_as_examples(example, inputs, small, None)
    assert (alone.then, alone.then_said) == (None, None)
    assert not list(rows_as_examples(example, {"x": np.zeros((1, 9000))}, {"x": np.zeros((1, 2))}, None))
    assert not list(rows_as_examples(example, inputs, {"x": np.zeros((3, 2))}, None)), "other rows"
    assert not list(rows_as_examples(example, {}, {}, None))
    small["x"][0, 0] = np.nan
    assert [one.asked for one in rows_as_examples(example, inputs, small, large)] == [{"x": [3, 4, 5]}]
