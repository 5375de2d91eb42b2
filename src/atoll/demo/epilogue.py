"""The last word of the demo: what happened in words and numbers, and where to go on by hand. Pure."""

from __future__ import annotations

import textwrap

from atoll.demo import words
from atoll.demo.outcome import Outcome
from atoll.demo.promises import weigh
from atoll.demo.scenario import AWAY, FOUNDER, SITES, STAR, START_QTY
from atoll.demo.stage import Stage

LABEL = 11
TEXT_WIDTH = 78 - LABEL
COMPLAINTS_MAX = 20
THE_LAST = "select about, label, model from decision order by scored_at desc limit 9"
A_WRITE = "update stock set price = 9 where item = 'figs'"


def summary(outcome: Outcome) -> list[str]:
    """The facts, in lines of less than eighty letters; a line that opens a part has a label."""
    verdict = "they have converged" if outcome.has_converged else "they have NOT converged"
    lines = _part("Result", f"Three nodes, {words.count(outcome.writes, 'write')}: {verdict}.")
    parts = (_decided, _cut, _answer, _stayed, _tables, _kept, _conflicts, _promises)
    return [*lines, *(line for part in parts for line in part(outcome))]


def _part(label: str, *texts: str) -> list[str]:
    return ["", *(f"{label if not number else '':<{LABEL}}{text}" for number, text in enumerate(texts))]


def _decided(outcome: Outcome) -> list[str]:
    lines = []
    for fact in outcome.sites:
        site, took = fact.site, fact.deciding
        times = "-" if took is None else f"{words.duration(took.p50)}, p99 {words.duration(took.p99)}"
        rows = words.count(fact.rows, site.noun)
        lines.append(f"{site.name:<8} {site.model:<8} {rows:<15} {fact.right:>5,} right   {times}")
    return _part(
        "Decided",
        *lines,
        "Times: from the commit of a row to that of its decision (median).",
    )


def _cut(outcome: Outcome) -> list[str]:
    cut = outcome.cut
    writes = ", ".join(f"{name} {count:,}" for name, count in cut.writes.items())
    if cut.converged_seconds is None:
        end = "The nodes did not catch up in time."
    else:
        end = f"Everything was everywhere {words.duration(cut.converged_seconds)} after the mending."
    before, during = (
        "-" if took is None else words.duration(took.p50) for took in (cut.deciding_before, cut.deciding)
    )
    return _part(
        "The cut",
        f"{AWAY.capitalize()} was cut off for {words.duration(cut.seconds)}, and everybody went on writing:",
        f"{writes} writes.",
        f"A write on {AWAY} took {words.latency(cut.took_before_seconds)} before the cut"
        f" and {words.latency(cut.took_seconds)} during it,",
        f"its model {before} and {during} (medians).",
        f"At its end {words.count(cut.waiting_most, 'row')} were to be delivered,"
        f" the oldest {words.duration(cut.lag_most_seconds)} old.",
        end,
    )


def _answer(outcome: Outcome) -> list[str]:
    answer = outcome.cut.answer
    texts = (
        answer.question,
        answer.text,
        f"From {AWAY}'s own documents: {words.listed(answer.titles) or 'none'}.",
    )
    return _part("Asked", *(line for text in texts for line in textwrap.wrap(text, TEXT_WIDTH)))


def _stayed(outcome: Outcome) -> list[str]:
    raw = sum(fact.raw_bytes for fact in outcome.sites)
    crossed = sum(fact.crossed_bytes for fact in outcome.sites)
    lines = []
    for fact in outcome.sites:
        each = f"({words.size(fact.raw_bytes // max(1, fact.rows))} a {fact.site.noun})"
        sent = words.size(fact.crossed_bytes)
        lines.append(f"{fact.site.name:<8} {words.size(fact.raw_bytes):>7} stayed {each:<18} {sent:>7} sent")
    return _part(
        "Stayed",
        *lines,
        f"Not sent: {words.size(raw)} to two others, {words.size(raw * (len(SITES) - 1))} in all.",
        f"Sent: {words.size(crossed)}, orders, decisions"
        f" ({words.size(outcome.sites[0].decision_bytes)} each), rollups, receipts.",
    )


def _promises(outcome: Outcome) -> list[str]:
    return _part(
        "Promised",
        *(f"{'kept' if promise.is_kept else 'NOT KEPT'}: {promise.text}" for promise in weigh(outcome)),
    )


def _tables(outcome: Outcome) -> list[str]:
    lines = []
    for table in outcome.tables:
        if table.is_same:
            rows, _, receipt = next(iter(table.receipts.values())).partition(" rows ")
            said = f"{int(rows):>7,} rows, the same on every node (receipt {receipt[:12]})"
        else:
            found = "; ".join(f"{node} {receipt}" for node, receipt in table.receipts.items())
            said = f"NOT the same: {found}"
        lines.append(f"{table.name:<8} {said}")
    lines += [f"not compared: {node} ({why})" for node, why in outcome.silent.items()]
    return _part("Compared", *lines)


def _kept(outcome: Outcome) -> list[str]:
    if outcome.complaints:
        return _part("Missing", *outcome.complaints[:COMPLAINTS_MAX])
    lines = ["Every write that was acknowledged is there, on every node."]
    if outcome.star is not None:
        lines += [
            f"Of {START_QTY:,} {STAR}, {outcome.star_sold:,} were sold at three sites at once;",
            f"{outcome.star.qty:,} are left, at {outcome.star.price}. Tags that two sites set:"
            f' "{outcome.star.tags}".',
        ]
    if outcome.given_way:
        lines.append(f"{words.count(outcome.given_way, 'write')} gave way in a deadlock, and said so.")
    return _part("Kept", *lines)


def _conflicts(outcome: Outcome) -> list[str]:
    counts = ", ".join(f"{name} {count:,}" for name, count in outcome.conflicts.items())
    lines = [f"Seen on {counts}: what a write overwrote unseen."]
    sample = outcome.sample
    if sample is not None:
        lines += [
            f"The {sample.column} of {sample.item}: {sample.won} by {sample.won_by} stays."
            f" {sample.lost} by {sample.lost_by} was written",
            f"{words.duration(sample.later_by_seconds)} before, unseen by {sample.won_by}, and is kept.",
            f"To put it back: select atoll.revert({sample.id})",
        ]
    return _part("Conflicts", *lines)


def addresses(stage: Stage, command: str, *, is_kept: bool) -> list[str]:
    """Where the nodes are, and what to try."""
    homes = {name: str(place.home) for name, place in stage.places.items()}
    ends = "stops them" if is_kept else f"stops them and removes {stage.folder}"
    lines = _part("Your turn", "The nodes stay up, and nobody else writes any more.", f"Ctrl-C {ends}.")
    for name, place in stage.places.items():
        lines += _part(name, f"{place.http}/metrics", place.dsn())
    tries = (
        f"nodes --home {homes[FOUNDER]}",
        f'sql --home {homes[SITES[1].name]} -c "{A_WRITE}"',
        f"sql --home {homes[AWAY]} -c 'table stock'",
        f"sql --home {homes[FOUNDER]} -c 'table vibration_10s'",
        f"sql --home {homes[FOUNDER]} -c '{THE_LAST}'",
        f"ask 'What does the error token-expired mean?' --home {homes[AWAY]}",
        f"conflicts --home {homes[FOUNDER]}",
        f"check --home {homes[AWAY]}",
    )
    return [*lines, *_part("Try", "In another terminal:"), *(f"  {command} {text}" for text in tries)]
