"""`atoll status`: whether the node runs, where it is, and how it is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.home import HomeOption, find_home, postgres_port

if TYPE_CHECKING:
    from atoll.node.inspect import Status


def status(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Show whether the node runs, where it is, and how it is. It exits with 3 where it is not ready."""
    import asyncio
    import os

    from atoll.node.config import load_settings
    from atoll.node.inspect import inspect

    found = find_home(home)
    settings = load_settings({}, os.environ, found.config)
    seen = asyncio.run(inspect(found, settings, postgres_port(found)))
    typer.echo(json.dumps(seen.as_dict(), indent=1, default=str) if as_json else _describe(seen))
    if not seen.is_ready:
        raise typer.Exit(3)


def _disk(seen: Status) -> str:
    if seen.is_postgres_foreign:
        return "not watched: PostgreSQL is not run by this node"
    floor = seen.disk_floor // 1024**2
    return f"{seen.disk_free_bytes // 1024**2} MB free, writes stop below {floor} MB"


def _differ(count: int) -> str:
    return f"{count} row{'s' if count > 1 else ''} differ from other nodes; see: atoll repair --dry-run"


def _models(seen: Status) -> list[tuple[str, str]]:
    if not seen.models:
        return []
    loaded = sum(model["state"] == "ready" for model in seen.models.values())
    problems = {name: model["problem"] for name, model in seen.models.items() if model["problem"]}
    return [
        ("models", f"{len(seen.models)} here, {loaded} loaded"),
        *[("", f"{name}: {problem}") for name, problem in problems.items()],
    ]


def _pipelines(seen: Status) -> list[tuple[str, str]]:
    if not seen.pipelines:
        return []
    waiting = sum(one["waiting"] for one in seen.pipelines.values())
    oldest = max((one["oldest_seconds"] or 0 for one in seen.pipelines.values()), default=0)
    lag = f", the oldest for {oldest:.1f} s" if waiting else ""
    rows = [
        ("pipelines", f"{len(seen.pipelines)} here, {waiting} row{'' if waiting == 1 else 's'} waiting{lag}")
    ]
    for name, one in seen.pipelines.items():
        if one["problem"]:
            rows.append(("", f"{name}: {one['problem']}"))
        if one["dead"]:
            rows.append(("", f"{name}: {one['dead']} given up; see: atoll pipeline dead {name}"))
    return rows


def _describe(seen: Status) -> str:
    state = "ready" if seen.is_ready else "not ready" if seen.is_running else "not running"
    number = f", number {seen.number}" if seen.number is not None else ""
    rows = [
        ("node", f"{seen.name}{number} ({seen.tier}, region {seen.region}): {state}"),
        *[("", f"{part}: {reason}") for part, reason in seen.reasons.items()],
        ("home", seen.home),
        ("process", str(seen.pid) if seen.pid else "-"),
        ("http", seen.http or "off"),
        ("link", seen.link or "off"),
        ("postgres", f"{seen.postgres} on {seen.socket}"),
        ("disk", _disk(seen)),
    ]
    if seen.has_left:
        rows.append(("", "it has left its atoll; to come back: atoll join TOKEN --with-data"))
    if seen.peers is not None:
        rows.append(("links", f"{seen.links_up} of {seen.peers} up"))
        waiting = f", {seen.parked} changes parked" if seen.parked else ""
        rows.append(("tables", f"{seen.tables} shared, {seen.conflicts} conflicts{waiting}"))
        rows += [("", f"{table}: {problem}") for table, problem in seen.table_problems.items()]
        rows += [("", f"{table}: {_differ(count)}") for table, count in seen.differences.items()]
        if seen.orphans:
            rows.append(("", f"{seen.orphans} rows without the parent that they name; see: atoll orphans"))
        if seen.repairs:
            rows.append(("", f"{seen.repairs} rows mended within a day; see: atoll repair --list"))
        rows += [*_models(seen), *_pipelines(seen)]
    return "\n".join(f"{label:<9} {text}" for label, text in rows)
