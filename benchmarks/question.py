"""What does a question to three nodes cost, against moving their rows to where it is asked?

Each of three linked nodes holds a million rows of its own. Sums, groups and quantiles are asked of all of
them over HTTP; the baseline asks for the rows that the same result could be computed from. Bytes are the
values that the two other nodes sent, and what came over the asking node's links meanwhile.

    python benchmarks/question.py [--rows 1000000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.demo.ports import free_ports
from atoll.node import credentials
from atoll.node.home import open_home
from support import nodes, report

SEED = 7
TABLE = "create table sale (id int primary key, shop int, amount float8, at timestamptz)"
ROWS = (
    "insert into sale"
    " select n, n % 100, exp(3 + 1.5 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())),"
    " timestamptz '2026-01-01' + n * interval '1 s' from generate_series(1, {rows}) n"
)
P99 = "percentile_cont(0.99) within group (order by amount)"
QUESTIONS = {
    "sum, average, count": ("select sum(amount), avg(amount), count(*) from sale", False),
    "100 groups": ("select shop, sum(amount), count(*) from sale group by shop order by shop", False),
    "median and 99 %": (
        f"select percentile_cont(0.5) within group (order by amount), {P99} from sale",
        False,
    ),
    "99 % of 100 groups": (f"select shop, {P99} from sale group by shop order by shop", False),
    "top 10": ("select * from sale order by amount desc limit 10", False),
    "exact 99 % (rows move)": (f"select {P99} from sale", True),
    "the rows (baseline)": ("select shop, amount from sale", False),
}


@dataclass(frozen=True)
class Cost:
    seconds: float
    value_bytes: int
    link_bytes: float
    rows: int


class Asker:
    """The HTTP of one node."""

    def __init__(self, home: Path, port: int) -> None:
        self._home, self._port = home, port

    async def ask(self, sql: str, is_exact: bool) -> Cost:
        before = await self._link_bytes()
        body = json.dumps({"sql": sql, "exact": is_exact, "seconds": 300, "arrow": True}).encode()
        began = time.perf_counter()
        answer = await self._request("POST /query", body)
        took = time.perf_counter() - began
        told: dict[str, Any] = json.loads(answer.splitlines()[-1])
        if "error" in told:
            raise RuntimeError(f"{sql}: {told['error']}")
        found = told["result"]["report"]
        if not found["complete"]:
            raise RuntimeError(f"{sql}: {found['nodes']}")
        sent = sum(node["bytes"] for node in found["nodes"] if node["node"] != "n1")
        return Cost(took, sent, await self._link_bytes() - before, found["moved_rows"])

    async def _link_bytes(self) -> float:
        text = (await self._request("GET /metrics", b"")).decode()
        return sum(map(float, re.findall(r'^atoll_link_bytes_total\{direction="in".*\} (\S+)$', text, re.M)))

    async def _request(self, what: str, body: bytes) -> bytes:
        secret = base64.b64encode(f"app:{credentials.password(open_home(self._home))}".encode()).decode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = (
            f"{what} HTTP/1.0\r\nHost: x\r\nAccept: application/x-ndjson\r\nAuthorization: Basic {secret}\r\n"
        )
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n\r\n")[2]


async def three(stack: AsyncExitStack, folder: Path, rows: int) -> tuple[Asker, str]:
    """Three linked nodes with rows of their own; who asks, and the version of PostgreSQL."""
    http, *links = free_ports(4)
    made: list[nodes.Node] = []
    for number, port in enumerate(links, 1):
        flags = ["--name", f"n{number}", "--link", f"127.0.0.1:{port}", "--questions", "on"]
        flags += ["--http", f"127.0.0.1:{http}" if number == 1 else "off"]
        home = folder / str(number)
        if made:
            token = (await nodes.command("invite", "--home", str(made[0].home))).strip().splitlines()[-1]
            await nodes.command("join", token, "--home", str(home), *flags)
        made.append(await stack.enter_async_context(nodes.node(home, *flags)))
    version = ""
    for node in made:
        async with await node.connect() as connection:
            await connection.execute("select setseed(%s)", [SEED / 100])
            await connection.execute(TABLE.encode())
            await connection.execute(ROWS.format(rows=rows).encode())
            await connection.execute("grant select on sale to app")
            await connection.execute("vacuum analyze sale")
            row = await (await connection.execute("show server_version")).fetchone()
            version = str(row[0]) if row else ""
            waiting = "select count(*) < 2 from atoll.link_state where state = 'up'"
            while (await (await connection.execute(waiting)).fetchone()) == (True,):
                await asyncio.sleep(0.2)
    return Asker(made[0].home, http), version


async def measure(rows: int, rounds: int) -> None:
    with nodes.homes() as folder:
        async with AsyncExitStack() as stack:
            asker, version = await three(stack, folder, rows)
            report.heading(
                f"What does a question to three nodes with {rows:,} rows each cost?",
                SEED,
                version,
                "the rows that the result could be computed from, moved to where it is asked",
            )
            costs: dict[str, list[Cost]] = {name: [] for name in QUESTIONS}
            await asker.ask("select 1", False)
            for _ in range(rounds):
                for name, (sql, is_exact) in QUESTIONS.items():
                    costs[name].append(await asker.ask(sql, is_exact))
    base = costs["the rows (baseline)"]
    base_bytes = statistics.median(cost.value_bytes for cost in base)
    base_seconds = statistics.median(cost.seconds for cost in base)
    print(f"{'':<24}{'seconds':>20}{'rows':>11}{'values, kB':>12}{'links, kB':>11}{'of rows':>10}{'time':>7}")
    for name, found in costs.items():
        seconds = [cost.seconds for cost in found]
        values = statistics.median(cost.value_bytes for cost in found)
        wire = statistics.median(cost.link_bytes for cost in found)
        time_ratio = statistics.median(seconds) / base_seconds
        told = f"{name:<24}{report.spread(seconds, '.2f'):>20}{found[0].rows:>11,}{values / 1e3:>12,.1f}"
        print(f"{told}{wire / 1e3:>11,.1f}{values / base_bytes:>10.5f}{time_ratio:>7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    asyncio.run(measure(given.rows, given.rounds))


if __name__ == "__main__":
    main()
