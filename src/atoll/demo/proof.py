"""Gathers the facts of a finished demo from the nodes: receipts, the answer of `atoll check`, the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from atoll.demo import program
from atoll.demo.ledger import Account
from atoll.demo.outcome import CutFacts, Outcome, TableFact, choose_sample, find_complaints
from atoll.demo.scenario import FOUNDER, STAR, TABLES
from atoll.demo.watch import Lookout

SETTLE_SECONDS_MAX = 60.0


@dataclass(frozen=True)
class Answer:
    """What `atoll check` found: the tables that are the same, and nodes that did not answer."""

    same: frozenset[str]
    silent: Mapping[str, str]


async def prove(
    home: Path, lookouts: Mapping[str, Lookout], accounts: Mapping[str, Account], cut: CutFacts
) -> Outcome:
    """Compare the nodes with each other, and each of them with what the applications were promised."""
    answer = await _check(home)
    receipts = {name: await lookout.receipts() for name, lookout in lookouts.items()}
    stocks = {name: await lookout.stock() for name, lookout in lookouts.items()}
    for lookout in lookouts.values():
        await lookout.look()
    seen = {name: lookout.seen for name, lookout in lookouts.items()}
    tables = (
        TableFact(table, {name: found[table] for name, found in receipts.items()}, table in answer.same)
        for table in TABLES
    )
    return Outcome(
        cut=cut,
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


async def _check(home: Path) -> Answer:
    wait = f"{SETTLE_SECONDS_MAX:.0f}"
    said = await program.run("check", "--json", "--wait", wait, "--home", str(home), codes=(0, 1, 3))
    answer = json.loads(said)
    same = (found["table"].removeprefix("public.") for found in answer["tables"] if found["same"])
    return Answer(frozenset(same), dict(answer["silent"]))
