"""Fixtures are files named after nouns, in support/."""

from __future__ import annotations

import pytest

pytest_plugins = [
    "support.fix_home",
    "support.fix_postgres",
    "support.fix_nodes",
    "support.fix_mesh",
    "support.fix_fleet",
    "support.fix_foreign",
    "support.fix_tensors",
    "support.fix_models",
    "support.fix_sources",
    "support.fix_link",
    "support.fix_peers",
    "support.fix_runtimes",
    "support.fix_routing",
    "support.fix_tiny_llama",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", default="18", choices=["16", "18"], help="major version of PostgreSQL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests share three running nodes come last: nodes that wait cost something too."""
    sharing = {item.path for item in items if "mesh" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path in sharing)
