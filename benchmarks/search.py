"""How good and how fast is search beside the data: by vectors, by words, and by both fused?

Vectors are unit vectors around seeded centres of uneven size, on a space of fewer dimensions with noise on
top, as embeddings are; queries are drawn the same way. Texts are words by Zipf's law, every third text in a
script without spaces. The baseline is exact: every row compared at full precision. Recall is the share of
its ten best that search finds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from support.report import heading, percentile
from support.servers import Connection, Server, make_atoll, servers, trusted

Floats = NDArray[np.float32]
HIDDEN, CENTRES, BEST = 48, 300, 10
Ids = NDArray[np.int64]
FILTERS: dict[str, tuple[dict[str, Any], Callable[[Ids], NDArray[np.bool_]]]] = {
    "": ({}, lambda ids: ids >= 0),
    ", filtered to half of the rows": ({"half": 1}, lambda ids: ids % 2 == 1),
    ", filtered to 5 %": ({"price": {"<": 50}}, lambda ids: ids * 7919 % 1000 < 50),
    ", filtered to 0.5 %": ({"price": {"<": 5}}, lambda ids: ids * 7919 % 1000 < 5),
    ", filtered to 0.05 %": ({"mark": 1}, lambda ids: ids * 104_729 % 2000 == 1),
}
SEARCH = "select key->>'id' from atoll.search('document', %s, %s, 10, %s)"


class Points:
    """Where vectors come from."""

    def __init__(self, seed: int, dimensions: int) -> None:
        self._random = np.random.default_rng(seed)
        self._space = self._random.standard_normal((HIDDEN, dimensions))
        self._centres = self._random.standard_normal((CENTRES, HIDDEN))

    def draw(self, count: int) -> Floats:
        which = self._random.zipf(1.5, count) % CENTRES
        inner = self._centres[which] + 0.7 * self._random.standard_normal((count, HIDDEN))
        noise = 0.5 * self._random.standard_normal((count, self._space.shape[1])) * HIDDEN**0.5 / 2
        found = inner @ self._space + noise
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


class Words:
    """Where texts come from."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        letters = [a + b for a in "bcdfghklmnprstvw" for b in "aeiou"]
        self._latin = [
            "".join(self._random.choices(letters, k=self._random.randint(2, 4))) for _ in range(20_000)
        ]
        self._dense = [
            "".join(chr(0x4E00 + int(3000 * self._random.random() ** 2)) for _ in range(2))
            for _ in range(20_000)
        ]
        self._weights = list(itertools.accumulate(1 / n for n in range(1, 20_001)))

    def text(self, is_dense: bool, count: int) -> str:
        words = self._random.choices(
            self._dense if is_dense else self._latin, cum_weights=self._weights, k=count
        )
        return ("" if is_dense else " ").join(words)


async def load(server: Server, vectors: Floats, words: Words, dimensions: int) -> None:
    async with await server.connect("atoll") as connection:
        await connection.execute(trusted("create extension if not exists vector with schema public"))
        await connection.execute(
            trusted(
                "create table document (id bigint primary key, half integer, price integer, mark integer,"
                f" body text, embedding vector({dimensions}))"
            )
        )
        copy = "copy document from stdin with (format binary)"
        async with connection.cursor() as cursor, cursor.copy(trusted(copy)) as target:
            target.set_types(["int8", "int4", "int4", "int4", "text", "bytea"])
            for i, vector in enumerate(vectors):
                packed = struct.pack(">hh", dimensions, 0) + vector.astype(">f4").tobytes()
                body = words.text(i % 3 == 0, 60)
                await target.write_row((i, i % 2, i * 7919 % 1000, i * 104_729 % 2000, body, packed))
        await connection.execute("analyze document")


async def build(connection: Connection) -> None:
    """Make what search makes, as a node does, and for comparison an index of full precision."""
    await connection.execute("set maintenance_work_mem = '256MB'; set max_parallel_maintenance_workers = 0")
    made = await (await connection.execute("select name, statement from atoll.search_work()")).fetchall()
    full = "create index full_precision on document using hnsw (embedding vector_cosine_ops)"
    for name, statement in [*made, ("full_precision", full)]:
        began = time.perf_counter()
        await connection.execute(trusted(statement))
        seconds = time.perf_counter() - began
        rows = await connection.execute("select pg_relation_size(%s::regclass) / 1e6", [name])
        ((size,),) = await rows.fetchall()
        kind = name if name == "full_precision" else statement.split(" using ")[1].split(" ")[0]
        print(f"index {kind:16} {seconds:6.0f} s {size:6.0f} MB", flush=True)
    await connection.execute("drop index full_precision")


async def ask(connection: Connection, asked: Iterable[tuple[Any, ...]]) -> tuple[list[set[str]], list[float]]:
    found, seconds = [], []
    for values in asked:
        began = time.perf_counter()
        rows = await (await connection.execute(SEARCH, values)).fetchall()
        seconds.append(time.perf_counter() - began)
        found.append({key for (key,) in rows})
    return found, seconds


def line(what: str, recall: float | None, seconds: Sequence[float]) -> None:
    told = "      " if recall is None else f"{recall:.3f} "
    p50, p99 = (percentile(seconds, share) * 1000 for share in (0.5, 0.99))
    print(f"{what:48} {told:>8} {p50:8.1f} ms {p99:8.1f} ms", flush=True)


def recall(found: list[set[str]], wanted: list[set[str]]) -> float:
    return sum(len(f & w) / len(w) for f, w in zip(found, wanted, strict=True)) / len(wanted)


async def main(rows: int, dimensions: int, queries: int, seed: int) -> None:
    points, words = Points(seed, dimensions), Words(seed)
    vectors, asked = points.draw(rows), points.draw(queries)
    async with servers(1) as (server,):
        await make_atoll(server)
        version = await server.value("atoll", "show server_version")
        heading(__doc__.split("\n")[0], seed, version, "every row compared at full precision, with numpy")
        await load(server, vectors, words, dimensions)
        async with await server.connect("atoll") as connection:
            await connection.execute(
                "select atoll.searchable('document', text => '{body}', embedding => 'embedding')"
            )
            await report(connection, vectors, asked, words)


async def report(connection: Connection, vectors: Floats, asked: Floats, words: Words) -> None:
    await build(connection)
    print(f"\n{'':48} {'recall':>8} {'p50':>11} {'p99':>11}")
    values = [vector.tolist() for vector in asked]
    ids = np.arange(len(vectors))
    for name, (condition, keeps) in FILTERS.items():
        kept = ids[keeps(ids)]
        wanted = [{str(kept[i]) for i in np.argsort(-(query @ vectors[kept].T))[:BEST]} for query in asked]
        found, seconds = await ask(connection, ((None, v, Jsonb(condition)) for v in values))
        line(f"vectors{name}", recall(found, wanted), seconds)
    for count, dense in ((2, False), (2, True), (6, False), (6, True)):
        texts = [words.text(dense, count) for _ in asked]
        _, seconds = await ask(connection, ((text, None, Jsonb({})) for text in texts))
        line(f"{count} words, {'without' if dense else 'with'} spaces", None, seconds)
        _, seconds = await ask(connection, ((t, v, Jsonb({})) for t, v in zip(texts, values, strict=True)))
        line("the same and vectors, fused", None, seconds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    chosen = parser.parse_args()
    asyncio.run(main(chosen.rows, chosen.dimensions, chosen.queries, chosen.seed))
