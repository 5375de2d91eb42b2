"""The vector of a query, made by the model that made those of the rows; or why words have to do.

Vectors of different models, or of two versions of one, are never compared: which version the rows' are of is
known to the database (sql/functions/56_embeddings.sql), and only those of that version are looked at.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

from atoll.domain.errors import AtollError
from atoll.serving.embedding import Embedder
from atoll.sql import query
from atoll.web.search import Asked

EMBED_SECONDS_MAX = 10.0


@dataclass(frozen=True)
class QueryVector:
    vector: list[float] | None = None
    model: str | None = None
    version: str | None = None
    note: str | None = None


NONE = QueryVector()


async def make_vector(
    embedder: Embedder | None, connection: AsyncConnection[tuple[Any, ...]], asked: Asked
) -> QueryVector:
    """Nothing is made for a search that brings a vector, wants none, or has none to compare it with."""
    words = (asked.query or "").strip()
    if not words or asked.vector is not None or asked.vector_weight == 0:
        return NONE
    row = await (await connection.execute(query("search", "model"), (asked.table,))).fetchone()
    if row is None:
        return NONE
    model, version, is_behind = row
    if version is None:
        return _by_words("no row has a vector on this node yet")
    if embedder is None:
        return _by_words("no models run here to make the query's vector")
    try:
        if asked.check is not None:
            asked.check(model)
        async with asyncio.timeout(EMBED_SECONDS_MAX):
            vector, made_by = await embedder.vector(model, words)
    except TimeoutError:
        return _by_words(f'model "{model}" did not answer within {EMBED_SECONDS_MAX:g} s')
    except AtollError as error:
        return _by_words(f'model "{model}" could not be asked ({error})')
    if made_by != version:
        return _by_words(f'the rows\' vectors are by version {version} of "{model}", here is {made_by}')
    note = "some rows have no vector of this version yet" if is_behind else None
    return QueryVector(vector.tolist(), model, version, note)


def _by_words(why: str) -> QueryVector:
    return QueryVector(note=f"searched by words only: {why}")
