"""Answers that are given again, with a real database: asked once, held, kept, and forgotten when they should be.

The engines are echoes: one says what it was asked and counts how often that was, and makes vectors of words.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest

from atoll.domain.errors import LinkError
from atoll.domain.models import Skill
from atoll.node.search import SESSION, search_by
from atoll.router.answers.book import Answers
from atoll.router.answers.wording import Quoted
from atoll.router.asked import Asked, read_asked
from atoll.router.placing.places import Terms
from atoll.router.service import Router
from atoll.runtimes.answers import gather
from atoll.runtimes.contract import Ask, Facts
from atoll.serving.berth import Wanted
from atoll.serving.embedding import Embedder
from atoll.serving.service import Serving
from atoll.web.retrieving import Retriever
from support.fix_nodes import Node
from support.fix_postgres import APP_ROLE, Connection
from support.hearing import Heard

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
LIKE = {"encoder": "own", "threshold": 0.8}
ROUTE: dict[str, Any] = {
    "me": 1,
    "name": "ask",
    "models": {"here": ["own", "other"]},
    "prefer": ["here"],
    "deadline_seconds": 30,
    "first_token_seconds": None,
    "max_cost": None,
    "labels": {"patient": "local", "far": "region:mars"},
    "hedge_after_seconds": None,
    "options": {"cache": {}},
}


class Site:
    """A node's router with what it holds; another one is the node after a restart."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.asks: list[Ask] = []
        self.serving = Serving(1000)
        self.embedder = Embedder(self.serving)
        self.answers = Answers(node.database.connect, self.embedder.vector)
        self.router = Router(self.serving, "eu", lambda model: Terms(), answers=self.answers)
        self.retriever = Retriever(search_by(self._app, self.embedder), set)
        self.tasks: list[asyncio.Task[None]] = []
        self.decision = ""

    async def _app(self) -> Connection:
        conninfo = self.node.database.conninfo(APP_ROLE)
        return await psycopg.AsyncConnection.connect(conninfo, autocommit=True, options=SESSION)

    def route(self, **cache: Any) -> None:
        self.router.set_routes([{**ROUTE, "options": {"cache": cache}}])

    async def models(self, version: str = "1", fails_at_event: int | None = None, **named: Any) -> None:
        def open_one() -> Heard:
            return Heard(self.asks, fails_at_event=fails_at_event)

        said = Facts(frozenset(Skill), 0)
        names = named.get("names", ("own",))
        await self.serving.desire([Wanted(name, version, "f16", {}, said, True, open_one) for name in names])

    async def start(self) -> None:
        for work in (self.serving.run(), self.answers.run()):
            self.tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def ask(
        self, words: str = "When is a refund paid?", header: str = "", label: str = "", **more: Any
    ) -> tuple[str, dict[str, Any], str]:
        """Whole answer's text, the answer, and where it came from."""
        body = {"model": "ask", "messages": [{"role": "user", "content": words}], **more}
        events, where = await self.events(body, header, label)
        answer = gather(CHAT, events)
        return answer["choices"][0]["message"]["content"], answer, where

    async def events(
        self, body: dict[str, Any], header: str = "", label: str = ""
    ) -> tuple[list[bytes], str]:
        headers = {"cache-control": header, "x-atoll-label": label}
        quoted: Quoted | None = None
        if "retrieve" in body:
            prepared = await self.retriever.prepare(body, 4096)
            body, quoted = dict(prepared.body), prepared.quoted
        asked: Asked = read_asked(CHAT, Skill.GENERATE, "ask", body, headers)
        chain = self.router.generate(asked, body, quoted)
        async with chain.answer() as events:
            found = [event async for event in events]
        self.decision = chain.trip.id
        return found, chain.trip.header.partition(";")[0]

    async def until(self, is_so: Callable[[], Any]) -> None:
        async with asyncio.timeout(60):
            while not is_so():
                await asyncio.sleep(0.02)

    def version(self) -> str | None:
        """Of what answers."""
        loaded = self.serving.loaded("own")
        return loaded.wanted.version if loaded is not None else None

    def kept(self) -> int:
        return int(self.node.owner("select count(*) from atoll.answer")[0][0])

    async def until_kept(self, count: int) -> None:
        await self.until(lambda: self.kept() == count)


@pytest.fixture
async def site(node: Node) -> AsyncIterator[Site]:
    made = Site(node)
    await made.models()
    made.route()
    await made.start()
    yield made
    await made.stop()


async def test_the_same_is_asked_once_also_after_a_restart_and_replayed_as_it_was_said(site: Site) -> None:
    first = await site.ask(stream=True, stream_options={"include_usage": True})
    again = await site.ask()
    assert (first[2], again[2]) == ("here", "cache")
    assert (again[0], again[1]["usage"]) == (first[0], first[1]["usage"])
    assert len(site.asks) == 1
    assert (await site.ask("When is it due?"))[2] == "here"
    assert (await site.ask(temperature=0.7))[2] == "here"
    await site.until_kept(3)

    later = Site(site.node)
    await later.models()
    later.route()
    await later.start()
    await later.until(lambda: len(later.answers.memory) == 3)
    assert (await later.ask())[::2] == (first[0], "cache")
    assert not later.asks
    told = later.router.decision(later.decision)
    assert told["again"]["model"] == "own"
    assert told["answered_by"] is None
    site.node.owner("delete from atoll.answer")
    await later.until(lambda: len(later.answers.memory) == 0)
    assert (await later.ask())[2] == "here", "what is forgotten is asked anew"
    later.router.set_routes([{**ROUTE, "options": {}}])
    assert (await later.ask())[2] == "here"
    assert (await later.ask())[2] == "here", "a route that does not say so gives nothing again"
    await later.stop()


async def test_a_caller_may_want_it_anew_or_leave_nothing(site: Site) -> None:
    assert (await site.ask(header="no-store"))[2] == "here"
    assert (await site.ask())[2] == "here"
    assert (await site.ask(header="no-cache"))[2] == "here"
    assert (await site.ask())[2] == "cache"
    assert len(site.asks) == 3
    assert dict(site.answers.counts) == {("ask", "new"): 3, ("ask", "same"): 1}


async def test_who_may_not_answer_now_answers_nothing_again(site: Site) -> None:
    await site.ask()
    assert (await site.ask())[2] == "cache"
    await site.models("2")
    assert (await site.ask())[2] == "here", "its model is another version now"
    await site.until(lambda: site.version() == "2")
    await site.ask()
    await site.models("2", names=("own", "other"))
    site.router.set_routes([{**ROUTE, "models": {"here": ["other"]}}])
    assert (await site.ask())[2] == "here", "the route leads to another model"
    await site.until_kept(3)


async def test_an_answer_stays_where_its_request_had_to_stay(site: Site) -> None:
    assert (await site.ask())[2] == "here"
    assert (await site.ask(label="patient"))[2] == "here", "what has another label is another request"
    assert (await site.ask(label="patient"))[2] == "cache"
    await site.until_kept(2)
    assert site.node.owner("select scope from atoll.answer order by 1") == [("global",), ("local",)]


async def test_neither_a_broken_answer_nor_one_of_a_model_on_its_way_out_is_given_again(site: Site) -> None:
    await site.models("broken", fails_at_event=2)
    await site.until(lambda: site.version() == "broken")
    with pytest.raises(LinkError, match="engine"):
        await site.ask()
    await site.models("whole")
    assert (await site.ask())[2] == "here"
    await site.until(lambda: site.version() == "whole")
    await site.ask()
    assert (await site.ask())[2] == "cache"


async def test_answers_from_rows_follow_the_rows(site: Site) -> None:
    site.node.run("create table note (id int primary key, body text)")
    site.node.run("select atoll.searchable('note', text => '{body}')")
    site.node.run("insert into note values (1, 'The refund is paid within a week')")
    rows = {"retrieve": {"table": "note"}}
    said, _, where = await site.ask("refund when", **rows)
    assert where == "here"
    assert "within a week" in said
    assert (await site.ask("refund when", **rows))[2] == "cache"
    await site.until_kept(1)
    assert site.node.owner("select read ? 'note' from atoll.answer") == [(True,)]
    site.node.run("update note set body = 'The refund is paid within a month'")
    said, _, where = await site.ask("refund when", **rows)
    assert where == "here"
    assert "within a month" in said
    await site.until_kept(2)
    site.node.owner("select pg_stat_force_next_flush()")

    def is_forgotten() -> bool:
        site.node.owner("select atoll.tidy_answers(1000, 1000)")
        return site.kept() == 0

    site.node.run("delete from note")
    await site.until(is_forgotten)
    await site.until(lambda: len(site.answers.memory) == 0)


async def test_like_questions_have_one_answer_and_one_vector_serves_all_who_want_it(site: Site) -> None:
    site.route(**LIKE)
    one = await site.ask("refund paid when at the desk today")
    like = await site.ask("refund paid when at the desk today please")
    assert (one[2], like[2]) == ("here", "cache")
    assert like[0] == one[0]
    assert (await site.ask("refund paid when at the desk 2 today"))[2] == "here", (
        "a number is another question"
    )
    assert (await site.ask("cold store checked"))[2] == "here"
    assert (await site.ask("refund paid when at the desk today please", temperature=1))[2] == "here"
    made = site.embedder.made
    await site.ask("cold store checked", header="no-cache")
    assert site.embedder.made == made
    await site.until_kept(4)
    later = Site(site.node)
    await later.models()
    later.route(**LIKE)
    await later.start()
    await later.until(lambda: len(later.answers.memory) == 4)
    assert (await later.ask("refund paid when at the desk today, please"))[::2] == (one[0], "cache")
    await later.models("2")
    assert (await later.ask("refund paid when at the desk today, please"))[2] == "here"
    await later.stop()


async def test_without_the_encoder_only_the_same_is_given_again(site: Site) -> None:
    site.route(encoder="gone", threshold=0.8)
    assert (await site.ask())[2] == "here"
    assert (await site.ask())[2] == "cache"
    assert site.answers.counts["ask", "no vector"] == 1


async def test_with_the_database_away_what_is_held_is_given_and_more_is_held(node: Node) -> None:
    site = Site(node)

    async def away() -> Connection:
        raise psycopg.OperationalError("away")

    site.answers = Answers(away, site.embedder.vector)
    site.router = Router(site.serving, "eu", lambda model: Terms(), answers=site.answers)
    await site.models()
    site.route()
    await site.start()
    assert [(await site.ask())[2] for _ in range(2)] == ["here", "cache"]
    await site.until(site.answers._outbox._waiting.empty)
    assert [(await site.ask("more"))[2] for _ in range(2)] == ["here", "cache"]
    await site.stop()
    assert site.kept() == 0


async def test_what_was_forgotten_while_nobody_listened_is_not_given_again(site: Site) -> None:
    await site.ask()
    await site.ask("more")
    await site.until_kept(2)
    site.node.owner("""with deaf as (select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and query ~ 'atoll_answers|atoll.(tidy_)?answer' and pid <> pg_backend_pid())
        delete from atoll.answer where (select count(*) from deaf) > 0 and made_at = (select min(made_at) from atoll.answer)""")
    await site.until(lambda: len(site.answers.memory) == 1)
    assert (await site.ask())[2] == "here"
    assert (await site.ask("more"))[2] == "cache"


async def test_what_cannot_be_written_keeps_back_no_other(site: Site) -> None:
    site.route(**LIKE)
    await asyncio.gather(site.ask("a \0 b"), site.ask("plain"))
    await site.until_kept(1)
    assert site.node.owner("select question from atoll.answer") == [("plain",)]
    assert (await site.ask("a \0 b"))[2] == "cache", "it is held all the same"


async def test_a_question_goes_to_no_encoder_that_may_not_be_told_it(site: Site) -> None:
    said = Facts(frozenset(Skill), 0)
    echoes = [
        Wanted("own", "1", "f16", {}, said, True, lambda: Heard(site.asks)),
        Wanted("far", "1", "upstream", {}, said, True, lambda: Heard(site.asks)),
    ]
    await site.serving.desire(echoes)
    site.route(encoder="far", threshold=0.8)
    await site.ask(label="patient")
    assert (site.embedder.made, site.answers.counts["ask", "no vector"]) == (0, 1)
    await site.ask()
    assert site.embedder.made == 1, "what may go everywhere may go there"


async def test_what_is_old_or_too_much_is_forgotten_the_oldest_first(site: Site) -> None:
    fill = """insert into atoll.answer select n::text, n::text, null, null, null, null, 'ask', 'own', '1', 'f16',
       'global', case when n = 1 then atoll.me() + 1 else atoll.me() end, extract(epoch from now()) + n,
       extract(epoch from now()) + case when n <= 2 then -5 else 500 end, %s, '{}' from generate_series(1, 10) n"""
    events, _ = await site.events(
        {"model": "ask", "messages": [{"role": "user", "content": "x"}]}, "no-store"
    )
    site.node.owner(fill, (b"".join(events).decode(),))
    site.node.owner("select atoll.tidy_answers(100, 6)")
    kept = [key for (key,) in site.node.owner("select key from atoll.answer order by made_at")]
    assert kept == ["1", "5", "6", "7", "8", "9", "10"], (
        "what another node made is its own to forget, for a day"
    )
    await site.until(lambda: len(site.answers.memory) == 6)


def test_applications_do_not_read_what_others_were_answered(node: Node) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        node.run("select * from atoll.answer")
    assert json.dumps(node.owner("select count(*) from atoll.answer")) == "[[0]]"
