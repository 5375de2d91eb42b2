"""Answers as Arrow, results as JSON, division as PostgreSQL has it, and a node that cannot ask."""

from __future__ import annotations

import asyncio
import datetime
import math
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from atoll.analytics.columns import arrow_column
from atoll.analytics.merge import Merge, part_table, translate
from atoll.analytics.plan import Plan
from atoll.analytics.question import Answer
from atoll.analytics.results import as_json, as_stream, from_stream
from atoll.domain.errors import DataError

UTC = datetime.UTC


def answer(kinds: list[tuple[str, int]], *rows: tuple[str | None, ...]) -> Answer:
    columns = zip(*rows, strict=True) if rows else [() for _ in kinds]
    texts = tuple(pa.chunked_array([pa.array(column, pa.string())]) for column in columns)
    return Answer(tuple(kinds), texts, len(rows), 0, 0.0)


@pytest.mark.parametrize(
    ("oid", "texts", "wanted"),
    [
        (16, ["t", "f", None], [True, False, None]),
        (21, ["-32768"], [-32768]),
        (20, ["9223372036854775807", None], [9223372036854775807, None]),
        (701, ["1e-300", "Infinity", "-0.5"], [1e-300, math.inf, -0.5]),
        (1700, ["12.30", None, "-7"], [Decimal("12.30"), None, Decimal("-7.00")]),
        (1700, ["1e3"], [Decimal(1000)]),
        (1700, ["12.5", "NaN", "Infinity"], [12.5, math.nan, math.inf]),
        (1700, ["1" * 30, "0." + "1" * 20], [float("1" * 30), float("0." + "1" * 20)]),
        (1082, ["2026-02-03"], [datetime.date(2026, 2, 3)]),
        (1082, ["infinity", "2026-02-03"], ["infinity", "2026-02-03"]),
        (1114, ["2026-02-03 04:05:06.789"], [datetime.datetime(2026, 2, 3, 4, 5, 6, 789000)]),
        (1184, ["2026-02-03 04:05:06+00", None], [datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC), None]),
        (1184, ["0044-03-15 00:00:00+00 BC"], ["0044-03-15 00:00:00+00 BC"]),
        (1083, ["23:59:59.5"], [datetime.time(23, 59, 59, 500000)]),
        (1186, ["P1Y2M3DT4H5M6.5S", "PT-1.25S"], [(14, 3, 14706500000000), (0, 0, -1250000000)]),
        (17, ["\\x00ff"], [b"\x00\xff"]),
        (2950, ["a-b"], ["a-b"]),
        (3802, ['{"a": 1}', None], ['{"a": 1}', None]),
        (23, [], []),
    ],
)
def test_texts_become_values_of_their_type(oid: int, texts: list[str | None], wanted: list[Any]) -> None:
    pieces = [pa.array(texts[:1], pa.string()), pa.array(texts[1:], pa.string())]
    values = [pa.MonthDayNano(value) if isinstance(value, tuple) else value for value in wanted]
    assert list(map(str, arrow_column(oid, pieces).to_pylist())) == list(map(str, values))


def test_a_column_whose_type_differs_between_nodes_gets_one_that_holds_both() -> None:
    table = part_table(
        [
            answer([("a", 23), ("b", 20), ("c", 23), ("d", 16)], ("1", "2", "3", "t")),
            answer([("a", 20), ("b", 1700), ("c", 701), ("d", 25)], ("5000000000", "2.5", "0.5", "x")),
        ]
    )
    assert [str(field.type) for field in table.schema] == ["int64", "decimal128(38, 1)", "double", "string"]


def test_results_name_columns_as_postgresql_would_even_twice() -> None:
    plan = Plan("whole", ())
    table = Merge(plan, {"p0": [answer([("n", 23), ("n", 25)], ("1", "x"))]}).run()
    assert as_json(table) == {
        "columns": [{"name": "n", "type": "int32"}, {"name": "n", "type": "string"}],
        "rows": [[1, "x"]],
    }
    again = from_stream(as_stream(table, {"complete": True}))
    assert again.schema.names == ["n", "n"]
    assert again.schema.metadata == {b"atoll.report": b'{"complete": true}'}


def test_values_that_json_has_no_word_for_are_text() -> None:
    columns = {
        "f": pa.array([math.nan, math.inf, 1.5]),
        "d": pa.array([Decimal("1.50"), None, Decimal("2.00")]),
        "h": pa.array([Decimal(10**30), Decimal(1), None], pa.decimal128(38, 0)),
        "b": pa.array([b"\x01", None, b""]),
        "t": pa.array([datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), None, None]),
    }
    assert as_json(pa.table(columns))["rows"] == [
        ["NaN", 1.5, 10**30, "\\x01", "2026-01-02T03:04:05+00:00"],
        ["Infinity", None, 1, None, None],
        [1.5, 2.0, None, "\\x", None],
    ]


def test_integers_are_divided_as_postgresql_divides_them() -> None:
    parts = {"p0": pa.table({"i": [7], "j": [2], "f": [7.0]})}
    text = translate(
        "select i / j, i / j / j, f / j, sum(i) / count(*), sum(i / j) from p0 group by i, j, f", parts
    )
    plan = Plan(
        "groups",
        (),
        merge="select i / j a, -i / j b, f / j c, i / j / j d from p0",
        names=("a", "b", "c", "d"),
    )
    table = Merge(plan, {"p0": [answer([("i", 23), ("j", 23), ("f", 701)], ("7", "2", "7"))]}).run()
    assert list(table.to_pylist()[0].values()) == [3, -3, 3.5, 1]
    assert text.count("//") == 5


@pytest.mark.parametrize(
    "merge",
    [
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/hostname')",
        "select * from missing",
        "select getenv('HOME')",
        "select * from p0 where o0 = sys",
    ],
)
def test_a_merge_reaches_nothing_but_its_parts(merge: str) -> None:
    plan = Plan("moved", (), merge=merge)
    with pytest.raises(DataError) as caught:
        Merge(plan, {"p0": [answer([("o0", 23)], ("7",))]}).run()
    assert caught.value.code == "question-not-merged"


async def test_a_merge_that_runs_too_long_is_stopped() -> None:
    numbers = "generate_series(1, 1000000)"
    endless = f"select count(*) from {numbers} a, {numbers} b where a % 3 = b % 7"
    merge = Merge(Plan("moved", (), merge=endless), {"p0": [answer([("o0", 23)], ("7",))]})
    running = asyncio.create_task(asyncio.to_thread(merge.run))
    async with asyncio.timeout(60):
        while not running.done():
            merge.stop()
            await asyncio.sleep(0.1)
    assert isinstance(running.exception(), DataError)


def test_a_node_runs_without_the_packages_for_asking_and_says_how_to_get_them() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('duckdb', 'pyarrow', 'sqlglot')))\n"
        "import atoll.node.process, atoll.cli.query\n"
        "from atoll.analytics.service import need_extra\n"
        "try: need_extra()\n"
        "except Exception as error: print(error.code, error.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith("query-extra-missing Run: pip install"), done.stderr
