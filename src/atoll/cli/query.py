"""`atoll query`: one question to many nodes, and the account of who answered."""

from __future__ import annotations

import asyncio
import base64
import csv
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running

if TYPE_CHECKING:
    from atoll.node.home import Home

LINE_BYTES_MAX = 512 * 1024 * 1024
SHOWN_ROWS_MAX = 1_000


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT; - reads it from standard input.")],
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="SELECTOR", help="all, node=a,b, region=eu or tier=edge. Repeatable."),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to wait for nodes.")] = 30.0,
    exact: Annotated[bool, typer.Option("--exact", help="Exact quantiles: moves their rows.")] = False,
    local_joins: Annotated[
        bool, typer.Option("--local-joins", help="Never join rows of different nodes with each other.")
    ] = False,
    partial: Annotated[bool, typer.Option("--partial", help="A partial answer is a success.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, without the account.")] = False,
    arrow: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the result as an Arrow stream; - is standard output."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Ask many nodes one question. Exits with 3 where a node did not answer and its rows are missing."""
    if as_json + as_csv + (arrow is not None) > 1:
        raise typer.BadParameter("give one of --json, --csv and --arrow")
    text = sys.stdin.read() if sql == "-" else sql
    asked = {
        "sql": text,
        "on": on or [],
        "seconds": timeout,
        "exact": exact,
        "local_joins": local_joins,
        "arrow": arrow is not None,
    }
    answer = asyncio.run(_ask(find_home(home), asked))
    report = answer["report"]
    if as_json:
        typer.echo(json.dumps(answer))
    elif as_csv:
        _write_csv(answer)
    elif arrow is not None:
        _write_arrow(base64.b64decode(answer["arrow"]), arrow)
    else:
        _print_rows(answer)
    if not as_json:
        _print_account(report)
    if not report["complete"] and not partial:
        raise typer.Exit(3)


async def _ask(home: Home, asked: dict[str, Any]) -> dict[str, Any]:
    """The result, with each node's answer told on a terminal as it comes."""
    from atoll.domain.errors import DataError, LinkError

    async for found in _lines(home, asked):
        if "node" in found:
            _tell(found["node"])
        elif "result" in found:
            _tell(None)
            return dict(found["result"])
        elif "error" in found:
            _tell(None)
            told = found["error"]
            raise DataError(told["code"], told["message"], detail=told["detail"], hint=told["hint"])
    raise LinkError("connection-lost", "the node hung up before it answered", hint="Look at: atoll logs")


async def _lines(home: Home, asked: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    from atoll.domain.errors import LinkError
    from atoll.node import credentials
    from atoll.node.values import address

    where = address(_address(home))
    secret = base64.b64encode(f"app:{credentials.password(home)}".encode()).decode()
    body = json.dumps(asked).encode()
    head = (
        f"POST /query HTTP/1.0\r\nHost: {where}\r\nAuthorization: Basic {secret}\r\n"
        f"Accept: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    host = "127.0.0.1" if where.is_wildcard else where.host
    try:
        reader, writer = await asyncio.open_connection(host, where.port, limit=LINE_BYTES_MAX)
    except OSError as error:
        raise LinkError("node-silent", f"could not reach the node at {where}", detail=f"{error}.") from error
    try:
        writer.write(head.encode() + body)
        while (await reader.readline()).strip():
            pass
        while line := await reader.readline():
            yield json.loads(line)
    finally:
        writer.close()


def _address(home: Home) -> str:
    from atoll.domain.errors import ConfigError

    word = running(home)
    if not word.get("http"):
        raise ConfigError(
            "http-off",
            "questions go over the node's HTTP, which is off",
            hint="Start it with --http HOST:PORT.",
        )
    return str(word["http"])


def _tell(node: dict[str, Any] | None) -> None:
    """On a terminal, the latest node that answered, on a line that is written over."""
    if sys.stderr.isatty():
        text = f"{node['node']} {node['state']}: {node['rows']} rows" if node else ""
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _print_rows(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in answer["columns"]:
        is_number = column["type"].startswith(("int", "decimal", "double", "float"))
        table.add_column(column["name"], justify="right" if is_number else "left", overflow="fold")
    for row in answer["rows"][:SHOWN_ROWS_MAX]:
        table.add_row(*("" if value is None else _shown(value) for value in row))
    Console(highlight=False, markup=False).print(table)
    if len(answer["rows"]) > SHOWN_ROWS_MAX:
        typer.echo(f"({len(answer['rows']) - SHOWN_ROWS_MAX} more rows: --csv, --json or --arrow shows all)")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _write_csv(answer: dict[str, Any]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(column["name"] for column in answer["columns"])
    writer.writerows(answer["rows"])


def _write_arrow(stream: bytes, file: Path) -> None:
    if str(file) == "-":
        sys.stdout.buffer.write(stream)
        sys.stdout.buffer.flush()
    else:
        file.write_bytes(stream)


def _print_account(report: dict[str, Any]) -> None:
    """On standard error, so that a result can be piped."""
    answered = [node for node in report["nodes"] if node["state"] == "answered"]
    names = ", ".join(
        f"{n['node']} ({n['rows']} rows, {n['bytes']} B, {n['seconds']:.2f} s)" for n in answered
    )
    typer.echo(f"{len(answered)} nodes answered in {report['seconds']:.2f} s: {names}", err=True)
    for note in report["notes"]:
        typer.echo(f"note: {note}", err=True)
    failed = [node for node in report["nodes"] if node["state"] == "failed"]
    if failed:
        missing = "another node stood in" if report["complete"] else "THE ANSWER IS PARTIAL"
        typer.echo(f"{missing}: {len(failed)} nodes did not answer", err=True)
    for node in failed:
        typer.echo(f"  {node['node']}: {node['why']} ({node['code']})", err=True)
