"""`atoll ask`: a question answered from the node's own rows, with what it was answered from."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.node.home import Home

SHOWN_CHARACTERS_MAX = 100
# What a model is to blame for; then the rows are shown at least.
OF_MODELS = ("model-", "runtime-", "skill-", "request-")


def ask(
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    tables: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="TABLE", help="Where to look; all that are searchable. Repeatable."),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=50, help="How many rows.")] = 5,
    where: Annotated[
        str | None, typer.Option("--filter", metavar="JSON", help="Which rows: {'price': {'<': 10}}.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Which model answers.")] = None,
    tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Tokens of an answer at most.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Answer a question from rows of this node, and say from which. 1 where no model answered."""
    from atoll.domain.errors import AtollError, DataError

    node = find_home(home)
    named = tables or _searchable(node)
    if not named:
        raise DataError(
            "retrieve-nothing",
            "no table can be searched",
            hint="Say what is: atoll embed-column TABLE COLUMN, or select atoll.searchable(…)",
        )
    chosen = _filter(where)
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens,
        "stream": True,
        "retrieve": {"tables": named, "k": k} | ({"filter": chosen} if chosen else {}),
    }
    body |= {"model": model} if model else {}
    beside: dict[str, Any] = {}
    parts: list[str] = []
    try:
        _answer(node, body, beside, None if as_json else sys.stdout.write, parts)
    except AtollError as error:
        if beside or not error.code.startswith(OF_MODELS):
            raise
        _show({"citations": _found(node, question, named, k, chosen), "answer": None}, as_json)
        raise
    _show({**beside, "answer": "".join(parts)}, as_json)


def _searchable(node: Home) -> list[str]:
    from atoll.cli.rows import fetch
    from atoll.retrieval.wish import TABLES_MAX

    found = [row["table"] for row in fetch(running_postgres(node), "search", "tables")]
    if len(found) > TABLES_MAX:
        typer.echo(f"note: looks into {TABLES_MAX} of {len(found)} tables; choose with --table", err=True)
    return found[:TABLES_MAX]


def _filter(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(f"it is not JSON: {error}", param_hint="--filter") from error


def _answer(node: Home, body: dict[str, Any], beside: dict[str, Any], say: Any, parts: list[str]) -> None:
    """Say the answer as it comes; what stands beside it comes with the first event."""
    from atoll.cli.asking import asked, events

    with asked(node, "/v1/chat/completions", body) as answer:
        for event in events(answer):
            beside |= {name: event[name] for name in ("citations", "retrieval") if name in event}
            for choice in event.get("choices", []):
                part = choice.get("delta", {}).get("content") or ""
                parts.append(part)
                if say is not None:
                    say(part)
                    sys.stdout.flush()
    if say is not None:
        say("\n")


def _found(node: Home, question: str, tables: list[str], k: int, chosen: Any) -> list[dict[str, Any]]:
    """What would have been quoted, had a model been there."""
    from atoll.cli.search import find
    from atoll.retrieval import quoting, wish

    wanted = wish.read({"tables": tables, "k": k}, [{"role": "user", "content": question}])
    found = [
        find(node, {"table": table, "query": wanted.query, "k": k, "filter": chosen})["results"]
        for table in tables
    ]
    names = ("table", "key", "scope", "snippet", "score")
    rows = enumerate(quoting.best(found, k), 1)
    return [{"index": number, **{name: row[name] for name in names}} for number, row in rows]


def _show(told: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(told, indent=1, ensure_ascii=False))
        return
    typer.echo()
    for one in told["citations"]:
        text = " ".join(one["snippet"].split())
        shown = text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"
        key = " ".join(str(value) for value in one["key"].values())
        typer.echo(f"[{one['index']}] {one['table']} {key} ({one['scope']}): {shown}")
    if not told["citations"]:
        typer.echo("nothing found")
    retrieval = told.get("retrieval", {})
    for note in retrieval.get("notes", []):
        typer.echo(f"note: {note}", err=True)
    if retrieval.get("left_out"):
        typer.echo(f"note: {retrieval['left_out']} more rows did not fit into the model's context", err=True)
