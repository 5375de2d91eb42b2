"""What Atoll promises, each with the number that this demo measured, and whether it held. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from atoll.demo import words
from atoll.demo.outcome import Outcome
from atoll.demo.scenario import AWAY, FACTORY


@dataclass(frozen=True)
class Promise:
    text: str
    is_kept: bool


def weigh(outcome: Outcome) -> tuple[Promise, ...]:
    sites, cut = outcome.sites, outcome.cut
    rows = sum(fact.rows for fact in sites)
    at_home = sum(fact.decided[fact.site.name] for fact in sites)
    elsewhere = sum(fact.raw_rows_elsewhere for fact in sites)
    stayed = words.size(sum(fact.raw_bytes for fact in sites))
    everywhere = all(set(fact.decided.values()) == {fact.rows} for fact in sites)
    windows = next(fact.rows for fact in sites if fact.site.name == FACTORY)
    rolled_up = {fact.rolled_up for fact in sites}
    away = AWAY.capitalize()
    return (
        Promise(
            f"{at_home:,} of {rows:,} rows were decided, on the node that wrote them", at_home == rows > 0
        ),
        Promise(f"{words.count(cut.decided, 'decision')} of {away} while it was cut off", cut.decided > 0),
        Promise(
            f"{words.count(elsewhere, 'raw row')} on a node that did not write it; {stayed} stayed",
            not elsewhere,
        ),
        Promise(f"{rows:,} decisions on every node", everywhere),
        Promise(f"{windows:,} windows of vibration summed up on every node", rolled_up == {windows}),
        Promise(f"an answer in {away}, cut off, from its own documents", bool(cut.answer.titles)),
        Promise("every write that was acknowledged, on every node", not outcome.complaints),
        Promise("all shared rows the same, by hash, on every node", outcome.has_converged),
    )


def are_kept(outcome: Outcome) -> bool:
    return all(promise.is_kept for promise in weigh(outcome))
