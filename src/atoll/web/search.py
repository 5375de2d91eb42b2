"""`POST /api/search`: a search in one table, answered as JSON.

Where the table's column was embedded by a declared model, the node makes the vector of the query by itself,
and the answer says which model and version that was, or why words had to do.

Whoever searches shows the password of the application's role (HTTP Basic, user `app`) and finds what that
role may read. What a search is and whether it makes sense is decided in the database.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from atoll.domain.errors import AtollError, DataError
from atoll.web.bodies import load, read_body
from atoll.web.callers import check_login, failure

BODY_BYTES_MAX = 256 * 1024


Check = Callable[[str], object]


@dataclass(frozen=True)
class Asked:
    """A search. The vector is that of the query, from the model that made the column's, in this version."""

    table: str
    query: str | None = None
    vector: list[float] | None = None
    k: int = 10
    filter: Mapping[str, Any] = field(default_factory=dict)
    keyword_weight: float = 1.0
    vector_weight: float = 1.0
    version: str | None = None
    check: Check | None = None  # refuses an encoder that may not be told the query


@dataclass(frozen=True)
class Found:
    """The rows, which model made the query's vector if the node had it made, and what to know of that."""

    results: list[dict[str, Any]]
    model: str | None = None
    version: str | None = None
    note: str | None = None

    def told(self) -> dict[str, Any]:
        by = {} if self.model is None else {"embedded_by": {"model": self.model, "version": self.version}}
        return {"results": self.results, **by, **({} if self.note is None else {"note": self.note})}


Search = Callable[[Asked], Coroutine[Any, Any, Found]]
TYPES: dict[str, tuple[type, ...]] = {
    "table": (str,),
    "query": (str,),
    "vector": (list,),
    "k": (int,),
    "filter": (dict,),
    "keyword_weight": (int, float),
    "vector_weight": (int, float),
}


def search_route(search: Search, password: Callable[[], str]) -> Route:
    async def answer(request: Request) -> Response:
        try:
            check_login(request, password())
            found = await search(
                read(await read_body(request, BODY_BYTES_MAX, "search-malformed", "a search"))
            )
        except AtollError as error:
            return failure(error)
        return Response(json.dumps(found.told(), ensure_ascii=False), media_type="application/json")

    return Route("/api/search", answer, methods=["POST"])


def read(body: bytes) -> Asked:
    """A search as it was sent: a field that is null counts as left away."""
    try:
        told = {name: value for name, value in load(body).items() if value is not None}
        for name, value in told.items():
            if not isinstance(value, TYPES[name]) or isinstance(value, bool):
                raise TypeError(name)
        if not all(type(number) in (int, float) for number in told.get("vector", ())):
            raise TypeError("vector")
        return Asked(**told)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "search-malformed",
            "cannot understand the search",
            detail='It has to be a JSON object with "table" and, where wanted, "query", "vector", "k",'
            ' "filter", "keyword_weight" and "vector_weight".',
        ) from error
