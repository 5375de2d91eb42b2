"""Gathers the facts of a finished demo from the nodes: receipts, the answer of `atoll check`, the rows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.demo import program
from atoll.demo.crew import LOOK_EVERY_SECONDS, Crew
from atoll.demo.ledger import Account
from atoll.demo.outcome import CutFacts, Outcome, SiteFact, TableFact, choose_sample, find_complaints
from atoll.demo.scenario import FACTORY, FOUNDER, SITES, STAR, TABLES
from atoll.demo.watch import Lookout

SETTLE_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Answer:
    """What `atoll check` found: the tables that are the same, and nodes that did not answer."""

    same: frozenset[str]
    silent: Mapping[str, str]


async def prove(home: Path, crew: Crew, cut: CutFacts) -> Outcome:
    """Compare the nodes with each other, and each of them with what the applications were promised."""
    answer = await _check(home)
    lookouts, accounts = crew.lookouts, crew.accounts
    receipts = {name: await lookout.receipts() for name, lookout in lookouts.items()}
    stocks = {name: await lookout.stock() for name, lookout in lookouts.items()}
    rolled_up = {name: await _until_rolled_up(lookout, accounts) for name, lookout in lookouts.items()}
    raw_rows = {name: await lookout.raw_rows() for name, lookout in lookouts.items()}
    for lookout in lookouts.values():
        await lookout.look()
    await crew.read_meters()
    seen = crew.seen
    decision_bytes = await lookouts[FOUNDER].decision_bytes()
    sites = [
        SiteFact(
            site=site,
            rows=accounts[site.name].observed,
            right=await lookouts[site.name].right(),
            deciding=accounts[site.name].deciding(accounts[site.name].decided),
            raw_bytes=seen[site.name].raw_bytes,
            decision_bytes=decision_bytes,
            crossed_bytes=crew.crossed.get(site.name, 0),
            decided={name: here.decisions.get(site.name, 0) for name, here in seen.items()},
            raw_rows={name: here[site.table] for name, here in raw_rows.items()},
            rolled_up=rolled_up[site.name],
        )
        for site in SITES
    ]
    tables = (
        TableFact(table, {name: found[table] for name, found in receipts.items()}, table in answer.same)
        for table in TABLES
    )
    return Outcome(
        cut=cut,
        sites=tuple(sites),
        writes=sum(account.writes for account in accounts.values()),
        given_way=sum(account.given_way for account in accounts.values()),
        tables=tuple(tables),
        silent=answer.silent,
        complaints=find_complaints(accounts, seen, stocks),
        conflicts={name: here.conflict_count for name, here in seen.items()},
        sample=choose_sample(seen[FOUNDER].conflicts),
        star=seen[FOUNDER].star,
        star_sold=sum(account.sold[STAR] for account in accounts.values()),
    )


async def _until_rolled_up(lookout: Lookout, accounts: Mapping[str, Account]) -> int:
    """The windows that a node's rollup counts, once those of other nodes have come, which takes seconds."""
    rows, until = accounts[FACTORY].observed, time.monotonic() + SETTLE_SECONDS_MAX
    while (found := await lookout.rolled_up()) != rows and time.monotonic() < until:
        await asyncio.sleep(LOOK_EVERY_SECONDS)
    return found


async def _check(home: Path) -> Answer:
    wait = f"{SETTLE_SECONDS_MAX:.0f}"
    said = await program.run("check", "--json", "--wait", wait, "--home", str(home), codes=(0, 1, 3))
    answer = json.loads(said)
    same = (found["table"].removeprefix("public.") for found in answer["tables"] if found["same"])
    return Answer(frozenset(same), dict(answer["silent"]))
