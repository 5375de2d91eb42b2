"""Fixtures are files named after nouns, in support/."""

from __future__ import annotations

import os

import pytest

pytest_plugins = [
    "support.fix_home",
    "support.fix_postgres",
    "support.fix_nodes",
    "support.fix_mesh",
    "support.fix_fleet",
    "support.fix_foreign",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", default="18", choices=["16", "18"], help="major version of PostgreSQL")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: nodes wait for each other more than they work."""
    return len(os.sched_getaffinity(0)) + 1
