"""Answers from the node's own rows: a request with `retrieve` gets the rows that fit it into its prompt.

Rows are read as the application's role reads them, so whoever asks has to show that role's password or a key
that may read. What is looked up and how rows are quoted is decided in retrieval/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from atoll.domain.errors import PolicyDenied
from atoll.retrieval import quoting, wish
from atoll.router.answers.wording import Quoted
from atoll.router.policy.key import Keys, find_key
from atoll.runtimes.contract import STREAMED
from atoll.web.keys import APP
from atoll.web.search import Asked, Check, Search

CHAT = STREAMED[0]


@dataclass(frozen=True)
class Prepared:
    """What the engine is asked, where that may go, and what the answer has beside it."""

    body: Mapping[str, Any]
    scopes: frozenset[str] = frozenset()
    beside: Mapping[str, Any] = field(default_factory=dict)
    quoted: Quoted | None = None


class Retriever:
    def __init__(self, search: Search, readers: Callable[[], Keys]) -> None:
        """`readers`: the keys, of which some may read."""
        self._search = search
        self._readers = readers

    def check(self, caller: object, path: str, told: object) -> None:
        """May this caller have rows quoted, on this path, of the tables that it names?"""
        if path != CHAT:
            raise wish.malformed(f"rows are quoted on {CHAT} only")
        if caller == APP:
            return
        key = find_key(self._readers(), caller)
        if key is not None and key.may_read:
            for table in wish.tables(told):
                if not key.reads(table):
                    raise PolicyDenied(
                        "retrieve-denied",
                        f'key "{key.name}" may not read table "{table}"',
                        hint=f"It may read: {', '.join(sorted(key.tables or ()))}.",
                    )
            return
        raise PolicyDenied(
            "retrieve-denied",
            f'key "{caller}" may not read rows' if caller else "to read rows, a key is needed that may",
            detail="Rows are read as the application's role reads them.",
            hint="Make one with: atoll key add NAME --may-read; send it as Authorization: Bearer KEY.",
        )

    async def prepare(
        self, body: Mapping[str, Any], context_tokens: int | None, check: Check | None = None
    ) -> Prepared:
        """`check` refuses an encoder that may not be told the question."""
        wanted = wish.read(body["retrieve"], body.get("messages"))
        found = [
            await self._search(Asked(table, wanted.query, k=wanted.k, filter=wanted.filter, check=check))
            for table in wanted.tables
        ]
        rows = quoting.best([one.results for one in found], wanted.k)
        quoted = quoting.quote(rows, quoting.room(context_tokens, body))
        asked = {name: value for name, value in body.items() if name != "retrieve"}
        asked["messages"] = quoting.with_quotes(body["messages"], quoted)
        notes = [f"{table}: {one.note}" for table, one in zip(wanted.tables, found, strict=True) if one.note]
        told = {"query": wanted.query, "found": len(rows), "left_out": quoted.left_out, "notes": notes}
        beside = {"citations": quoted.citations, "retrieval": told}
        said = Quoted(wanted.tables, wish.said_last(body["messages"]))
        return Prepared(asked, quoted.scopes, beside, said)
