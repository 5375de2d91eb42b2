"""`atoll search`: the rows of a table that fit words, a vector or both best."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.node.home import Home

SHOWN_CHARACTERS_MAX = 120


def search(
    table: Annotated[str, typer.Argument(help="The table, declared with atoll.searchable.")],
    words: Annotated[
        str | None, typer.Argument(help='Words to find; "a phrase" has to be there, -word must not.')
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many rows.")] = 10,
    where: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Which rows: {'price': {'<': 10}}.")
    ] = None,
    vector_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The query's vector, as a JSON array.")
    ] = None,
    keyword_weight: Annotated[float, typer.Option(help="How much the ranking by words counts.")] = 1.0,
    vector_weight: Annotated[float, typer.Option(help="How much the ranking by vectors counts.")] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Search a table by words, by a vector or by both."""
    from atoll.cli.rows import print_table

    asked = {
        "table": table,
        "query": words,
        "vector": _json("--vector-file", _text(vector_file)),
        "k": k,
        "filter": _json("--filter", where),
        "keyword_weight": keyword_weight,
        "vector_weight": vector_weight,
    }
    found = find(find_home(home), asked)
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    if found.get("note"):
        typer.echo(f"note: {found['note']}", err=True)
    if not found["results"]:
        typer.echo("nothing found")
    else:
        rows = [_cells(row) for row in found["results"]]
        print_table(("", "key", "words", "distance", "scope", "text"), rows)


def find(node: Home, asked: dict[str, Any]) -> dict[str, Any]:
    """As `/api/search` answers. Where the node does not listen on HTTP, its models are left out."""
    from atoll.cli.asking import asked as ask
    from atoll.node.config import load_settings
    from atoll.node.lock import holder
    from atoll.node.search import make_search
    from atoll.web.search import read

    postgres = running_postgres(node)
    word = holder(node.path)
    if word is not None and word.get("http"):
        with ask(node, "/api/search", asked) as answer:
            return dict(json.loads(answer.read()))
    run = make_search(node, load_settings({}, os.environ, node.config), postgres)
    return asyncio.run(run(read(json.dumps(asked).encode()))).told()


def _text(file: Path | None) -> str | None:
    try:
        return file.read_text("utf-8") if file else None
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read: {error}", param_hint="--vector-file") from error


def _json(option: str, text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint=option) from error


def _cells(row: dict[str, Any]) -> list[str]:
    text = " ".join(row["snippet"].split())
    distance = row["vector_distance"]
    return [
        str(row["rank"]),
        " ".join(str(value) for value in row["key"].values()),
        "-" if row["keyword_rank"] is None else str(row["keyword_rank"]),
        "-" if distance is None else f"{distance:.3f}",
        row["scope"],
        text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…",
    ]
