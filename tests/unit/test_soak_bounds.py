"""A soak says what is too large, what grows, and which errors are of a kind that nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from soak.bounds import Bound, judge
from soak.errors import unknown_errors
from soak.gauges import Sample

BOUND = {"WAL": Bound(most=100, growth_part=0.5, growth=10)}


def samples(values: list[float], node: str = "n1") -> list[Sample]:
    return [Sample(node, n * 10.0, {"WAL": value}) for n, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([0.0] * 10 + [40.0] * 30, None),  # it fills up while it warms up, and stays
        ([40.0, 60.0] * 20, None),
        ([40.0] * 39 + [101.0], "101.0 on n1 is more than 100"),
        ([float(n) * 2 for n in range(40)], "grew from 29.0 to 69.0 on n1"),
        ([1.0, 90.0], None),  # too short to say that it grows
    ],
)
def test_what_is_too_large_or_grows_is_named(values: list[float], problem: str | None) -> None:
    (line,) = judge(samples(values), BOUND)
    assert line.problems == ((problem,) if problem else ())


def test_the_worst_node_stands_in_the_table() -> None:
    (line,) = judge(samples([50.0] * 20) + samples([80.0] * 20, "n2") + samples([60.0] * 20, "n3"), BOUND)
    assert (line.node, line.peak) == ("n2", 80.0)


def test_errors_that_faults_explain_are_passed_over_and_others_are_counted(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "postgres.log").write_text(
        '2026-01-01 UTC [7] ERROR:  replication slot "atoll_to_2" does not exist\n'
        "2026-01-01 UTC [7] LOG:  all is well\n"
        "2026-01-01 UTC [7] ERROR:  invalid page in block 17 of relation 5\n"
        "2026-01-01 UTC [9] ERROR:  invalid page in block 18 of relation 5\n"
    )
    (logs / "node.log").write_text(
        '{"level": "warning", "message": "a peer is away"}\n'
        '{"level": "error", "message": "a surprise"}\n{"lev'
    )
    assert unknown_errors(tmp_path) == {
        "invalid page in block N of relation N": 2,
        "a surprise": 1,
    }
