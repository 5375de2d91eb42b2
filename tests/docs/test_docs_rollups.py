"""The examples of docs/howto/rollups.md, in turn: what the page says is what the database does."""

from __future__ import annotations

import itertools

import pytest

from docs import pages
from support.fix_nodes import Node

pytestmark = pytest.mark.slow

BLOCKS = pages.blocks(pages.read("docs/howto/rollups.md"))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else "nothing" if value is None else str(value)


def test_the_examples_of_the_page_are_what_the_database_does(node: Node) -> None:
    results = 0
    for block, following in itertools.zip_longest(BLOCKS, BLOCKS[1:]):
        if block.language != "sql":
            continue
        rows = node.run(block.text)
        if following is not None and following.language == "result":
            results += 1
            assert [" | ".join(map(_shown, row)) for row in rows] == following.text.splitlines(), block.text
    assert results >= 10
