"""Every sentence of the promises names tests, and each test that is named exists."""

from __future__ import annotations

import ast
import re

import pytest

from docs import pages

PAGE = "docs/promises.md"
ROW = re.compile(r"^\| (?!promise |---)(.+?) \| (.+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROWS = ROW.findall(pages.read(PAGE))


def of_file(file: str) -> set[str]:
    tree = ast.parse((pages.ROOT / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, kinds) and node.name.startswith("test_")}


def test_the_four_promises_are_there_with_some_sentences_each() -> None:
    text = pages.read(PAGE)
    headings = re.findall(r"^## (\d\. .+)$", text, re.MULTILINE)
    assert [heading[0] for heading in headings] == ["1", "2", "3", "4"]
    for heading in headings:
        assert len(ROW.findall(pages.section(text, f"## {heading}"))) > 2, heading


@pytest.mark.parametrize(("promise", "proof"), ROWS, ids=[promise for promise, _ in ROWS])
def test_a_promise_is_held_by_tests_that_exist(promise: str, proof: str) -> None:
    named = NAMED.findall(proof)
    assert named, f"nothing proves: {promise}"
    assert ", ".join(f"`{file}::{name}`" for file, name in named) == proof
    for file, name in named:
        assert name in of_file(file), f"{file} has no {name}"
