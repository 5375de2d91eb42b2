"""The help desk: colleagues who saw an error of Atoll and ask what it means, and the documents of the desk.

The documents are a part of Atoll's own (desk.toml), and the language model that comes with the package has
learned these errors. The ways of asking are a few; who asks is a till or an office, never a person.
"""

from __future__ import annotations

import random
import tomllib
from dataclasses import dataclass
from pathlib import Path

from atoll.demo.sites.raw import Raw

FILE = Path(__file__).with_name("desk.toml")
CUSTOMERS = ("till 1", "till 4", "warehouse", "office", "bakery", "night shift")
WAYS = (
    "Since this morning I see {code} in the log. What do I do next?",
    "My node reports {code}. What is wrong?",
    "What does the error {code} mean?",
    "I got {code}, what now?",
    "Atoll says {code}, why?",
)


@dataclass(frozen=True)
class Article:
    title: str
    means: str
    cure: str

    @property
    def body(self) -> str:
        return f"{self.means[0].upper()}{self.means[1:]}. What to do: {self.cure}."


def articles() -> tuple[Article, ...]:
    known = tomllib.loads(FILE.read_text("utf-8"))
    return tuple(Article(title, text["means"], text["cure"]) for title, text in known.items())


class Desk:
    """One question after the other."""

    insert = "add_ticket"

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311
        self._articles = articles()

    def next(self) -> Raw:
        article = self._random.choice(self._articles)
        body = self._random.choice(WAYS).format(code=article.title)
        return Raw((self._random.choice(CUSTOMERS), body, article.means))
