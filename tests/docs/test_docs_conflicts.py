"""The examples of docs/conflicts.md, run: what the page says is what real databases do."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from docs import pages
from support.fix_nodes import Nodes

pytestmark = pytest.mark.slow

NAMES = ("lisbon", "nairobi", "osaka")
STEP_MS = 1_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EXAMPLES = pages.blocks(pages.read("docs/conflicts.md"))
SCENARIOS = [block.text for block in EXAMPLES if block.language == "scenario"]


NUMBERS = itertools.count(1)


class Scenario:
    """One example, in a schema of its own, with clocks that move a second with each line."""

    def __init__(self, nodes: Nodes) -> None:
        number = next(NUMBERS)
        self._schema = f"example{number}"
        self._nodes = dict(zip(NAMES, nodes, strict=True))
        self._told: dict[tuple[str, str], int] = {}
        self._offset_ms = dict.fromkeys(NAMES, 0)
        self._now_ms = number * DAY_MS
        for node in nodes:
            node.run(f"create schema {self._schema}")
            node.run(f"set search_path = {self._schema}")

    def play(self, line: str) -> None:
        self._now_ms += STEP_MS
        self._set_clocks()
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word in self._nodes:
            self._tell(word, rest)
        elif word in ("all", "each"):
            for name in NAMES:
                self._tell(name, rest)
        elif word == "exchange":
            for _ in range(2):  # what a declaration brings along is written when it arrives
                for sender in NAMES:
                    for receiver in NAMES:
                        self._deliver(sender, receiver)
        elif word == "deliver":
            sender, receiver = re.fullmatch(r"(\w+) to (\w+)", rest).groups()  # type: ignore[union-attr]
            self._deliver(sender, receiver)
        elif word == "clock":
            self._move_clock(rest)
        elif word == "retry":
            for node in self._nodes.values():
                node.retry()
        elif word == "listed":
            assert self._listed() == ("" if rest == "nothing" else rest)
        else:
            pytest.fail(f"the example has a line that nobody understands: {line}")

    def _tell(self, name: str, text: str) -> None:
        statement, arrow, wanted = text.partition("  =>  ")
        rows = self._nodes[name].run(statement)
        if arrow:
            shown = [" | ".join(_shown(value) for value in row) for row in rows]
            assert " ; ".join(shown) == wanted.strip(), f"on {name}"

    def _deliver(self, sender: str, receiver: str) -> None:
        if sender != receiver:
            source = self._nodes[sender]
            source.told = self._told.get((sender, receiver), 0)
            changes = source.changes()
            self._nodes[receiver].receive(changes)
            self._told[sender, receiver] = source.told

    def _move_clock(self, text: str) -> None:
        if text == "everybody is 1 hour later":
            self._now_ms += HOUR_MS
        else:
            name, way = re.fullmatch(r"(\w+) is 1 hour (ahead|behind)", text).groups()  # type: ignore[union-attr]
            self._offset_ms[name] = HOUR_MS if way == "ahead" else -HOUR_MS
        self._set_clocks()

    def _set_clocks(self) -> None:
        for name, node in self._nodes.items():
            node.clock(self._now_ms + self._offset_ms[name])

    def _listed(self) -> str:
        """What any node lists, each conflict once."""
        query = 'select kind, "column", lost_value, won_value from atoll.conflicts where "table" like %s'
        found = {
            f"{kind} of {column or 'row'}: {lost or 'nothing'} lost to {won or 'nothing'}"
            for node in self._nodes.values()
            for kind, column, lost, won in node.run(query, f"{self._schema}.%")
        }
        return "; ".join(sorted(found))


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


@pytest.mark.parametrize("text", SCENARIOS, ids=lambda text: text.split("\n")[0][9:60])
def test_an_example_of_the_page_is_what_databases_do(text: str, lasting_nodes: Nodes) -> None:
    scenario = Scenario(lasting_nodes)
    for line in text.splitlines():
        scenario.play(line)


def test_the_page_has_examples() -> None:
    assert len(SCENARIOS) >= 15
