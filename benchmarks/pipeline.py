"""How soon after its commit is a row's score committed, how many are scored a second, what do writers pay?

A real node with a small ONNX model (four numbers in, three scores out). Paced: rows are written one by one at
a rate; taken is the time from the end of the writer's commit to the notification of the score's commit. Bulk:
rows of one statement, until the last of their scores is there. Writers: one-row commits a second of several
writers at once, without a pipeline, with one at work, and with nothing but a NOTIFY in each commit.

    python benchmarks/pipeline.py [--seconds 15] [--rate 200] [--rows 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import psycopg
from onnx import TensorProto, helper, numpy_helper, save

from atoll.node import credentials
from atoll.node.home import open_home
from support import nodes, report
from support.servers import Connection

P50_MS_WANTED, ROWS_PER_SECOND_WANTED = 15.0, 5000
WRITERS, WRITERS_SECONDS = 8, 5.0
TABLE = "create table {} (id bigint primary key default atoll.id(), a float8, b float8, c float8, d float8)"
NOTIFIES = """
create function public.always() returns trigger language plpgsql as
$$ begin perform pg_notify('always', ''); return null; end $$;
create trigger always after insert on written for each statement execute function public.always()
"""


def make_model(path: Path) -> None:
    rng = np.random.default_rng(1)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["p"], axis=1)],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["rows", 3])],
        [numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    save(model, path)


async def connect(node: nodes.Node) -> Connection:
    """As an application, whose tables these are."""
    dsn = credentials.dsn(open_home(node.home))
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True)


async def paced(node: nodes.Node, rate: int, seconds: float) -> list[float]:
    """Milliseconds from commit to committed score."""
    committed: dict[int, float] = {}
    scored: dict[int, float] = {}
    count = int(rate * seconds)
    async with await connect(node) as writer, await connect(node) as listener:
        await listener.execute("listen atoll_pipeline_scores")

        async def listen() -> None:
            async for note in listener.notifies():
                scored[json.loads(note.payload)["key"]["id"]] = time.perf_counter()
                if len(scored) == count:
                    return

        listening = asyncio.create_task(listen())
        began = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            await writer.execute("insert into reading values (%s, 1, 2, 3, 4)", [-number - 1])
            committed[-number - 1] = time.perf_counter()
        await asyncio.wait_for(listening, 60)
    return [(scored[key] - at) * 1000 for key, at in committed.items()]


async def bulk(connection: Connection, rows: int) -> float:
    """Rows a second."""
    await connection.execute(
        "insert into reading select i, random(), random(), random(), random() from generate_series(1, %s) i",
        [rows],
    )
    began = time.perf_counter()
    while True:
        cursor = await connection.execute("select count(*) from verdict where id > 0")
        if (await cursor.fetchall())[0][0] == rows:
            return rows / (time.perf_counter() - began)
        await asyncio.sleep(0.1)


async def written(node: nodes.Node) -> float:
    """One-row commits a second of several writers at once."""
    count = 0
    end = time.perf_counter() + WRITERS_SECONDS

    async def write() -> None:
        nonlocal count
        async with await connect(node) as connection:
            while time.perf_counter() < end:
                await connection.execute("insert into written (a, b, c, d) values (1, 2, 3, 4)")
                count += 1

    await asyncio.gather(*(write() for _ in range(WRITERS)))
    return count / WRITERS_SECONDS


async def declare(connection: Connection, name: str, table: str) -> None:
    query = "select atoll.add_pipeline(%s, %s, 'array[a, b, c, d]', 'small', %s)"
    await connection.execute(query, [name, table, "verdict" if name == "scores" else name])


async def measure(rate: int, seconds: float, rows: int) -> bool:
    with nodes.homes() as folder:
        async with nodes.node(folder / "n", "--name", "n", "--http", "off", "--link", "off") as node:
            make_model(folder / "small.onnx")
            await nodes.command(
                "model", "add", str(folder / "small.onnx"), "--keep", "--home", str(node.home)
            )
            async with await connect(node) as connection:
                cursor = await connection.execute("show server_version")
                report.heading(
                    "How soon is a written row scored, and how many a second?",
                    1,
                    (await cursor.fetchall())[0][0],
                    "the targets; for writers, the same table without a pipeline",
                )
                for table in ("reading", "written"):
                    await connection.execute(TABLE.format(table))
                await declare(connection, "scores", "reading")
                await paced(node, rate, 2)  # the model is loaded, plans are made
                await connection.execute("truncate reading, verdict")
                found = await paced(node, rate, seconds)
                p50, p99 = (report.percentile(found, share) for share in (0.5, 0.99))
                print(f"{rate} rows/s   p50 {p50:.1f} ms (wanted {P50_MS_WANTED:g}), p99 {p99:.1f} ms")
                await connection.execute("truncate reading, verdict")
                rates = []
                for _ in range(3):
                    rates.append(await bulk(connection, rows))
                    await connection.execute("truncate reading, verdict")
                print(f"bulk         {report.spread(rates)} rows/s (wanted {ROWS_PER_SECOND_WANTED:,})")
                await writers(node, connection)
    return p50 <= P50_MS_WANTED and sorted(rates)[1] >= ROWS_PER_SECOND_WANTED


async def writers(node: nodes.Node, connection: Connection) -> None:
    async def with_pipeline(what: str) -> float:
        await declare(connection, "others", "written")
        rate = await written(node)
        await connection.execute("select atoll.drop_pipeline('others')")
        return rate

    for _ in range(2):
        bare = await written(node)
        waked = await with_pipeline("waked")
        await connection.execute(NOTIFIES)
        notified = await written(node)
        with contextlib.suppress(psycopg.Error):
            await connection.execute("drop function public.always() cascade")
        print(
            f"writers      {bare:.0f} commits/s bare, {waked:.0f} with a pipeline at work,"
            f" {notified:.0f} with nothing but a NOTIFY in each"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rows", type=int, default=20_000)
    told = parser.parse_args()
    sys.exit(0 if asyncio.run(measure(told.rate, told.seconds, told.rows)) else 1)


if __name__ == "__main__":
    main()
