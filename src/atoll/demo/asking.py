"""Asks a node something that its own documents answer. How it is asked is known here alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from atoll.demo import program

CITED = 3


@dataclass(frozen=True)
class Answer:
    """What was answered, and the titles of the documents that it is from, the best first."""

    question: str
    text: str
    titles: tuple[str, ...]


async def ask(home: Path, question: str) -> Answer:
    """What the node's own model says, from the documents that fit best, found on the node itself."""
    said = await program.run(
        "ask", question, "--table", "article", "-k", str(CITED), "--json", "--home", str(home)
    )
    told = json.loads(said)
    titles = tuple(cited["key"]["title"] for cited in told["citations"])
    return Answer(question, told["answer"].strip(), titles)
