"""A pipeline, as its worker needs to know it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection

Connection = AsyncConnection[tuple[Any, ...]]
Connect = Callable[[], Awaitable[Connection]]


@dataclass(frozen=True)
class Job:
    name: str
    declared: int
    kind: str
    task: str
    model: str
    batch_max: int
    options: Mapping[str, Any]
    number: int
    read_sql: str
    write_sql: str
