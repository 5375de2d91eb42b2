"""`atoll preflight`: whether a PostgreSQL of one's own is fit for a node, and what to do about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from atoll.node.postgres.preflight import Finding


def preflight(
    dsn: Annotated[str, typer.Argument(help="Address of the database, as PostgreSQL's own tools take it.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Look whether a PostgreSQL of your own can be a node's. It exits with 3 where something is missing."""
    import asyncio

    found = asyncio.run(_look(dsn))
    is_fit = not any(finding.is_error for finding in found)
    if as_json:
        told = [{"level": finding.level, **asdict(finding)} for finding in found]
        typer.echo(json.dumps({"fit": is_fit, "findings": told}, indent=1))
    else:
        for finding in found:
            typer.echo(_describe(finding))
        typer.echo("a node can use this database" if is_fit else "a node cannot use this database yet")
    if not is_fit:
        raise typer.Exit(3)


async def _look(dsn: str) -> list[Finding]:
    import psycopg

    from atoll.domain.errors import LinkError
    from atoll.node.postgres import preflight as checks
    from atoll.node.postgres.foreign import CONNECT_SECONDS_MAX, parse

    parse(dsn)
    try:
        async with await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=CONNECT_SECONDS_MAX
        ) as connection:
            return checks.judge(await checks.look(connection))
    except psycopg.OperationalError as error:
        raise LinkError(
            "database-away",
            "could not connect to the database",
            detail=f"{str(error).strip()}.",
            hint="Check host, port, user and password, and whether the server lets this machine in.",
        ) from error


def _describe(finding: Finding) -> str:
    again = "  (restart the server)" if finding.needs_restart else ""
    return f"{finding.level}: {finding.name}: {finding.problem}\n  cure: {finding.cure}{again}"
