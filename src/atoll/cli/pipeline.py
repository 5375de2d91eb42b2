"""`atoll pipeline`: have a model score rows as they arrive, and see how that goes."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

group = typer.Typer(help="Pipelines: rows are scored by a model as they arrive.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the pipeline.")]


@group.command()
def add(
    name: NameArgument,
    on: Annotated[str, typer.Option("--on", metavar="TABLE", help="The table whose rows are scored.")],
    input: Annotated[
        str, typer.Option("--input", metavar="SQL", help="An expression over a row; null is not scored.")
    ],
    model: Annotated[str, typer.Option(help="The model that scores.")],
    into: Annotated[
        str, typer.Option("--into", metavar="TABLE", help="Where the scores go; made where it is missing.")
    ],
    kind: Annotated[
        str, typer.Option(help="What the input is: tensor, text, image, audio or json.")
    ] = "tensor",
    task: Annotated[
        str | None, typer.Option(help="What a text is asked for: generate, embed or infer.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="SQL", help="A SELECT list over r and result, for the output.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="A condition over r and result for rows to write.")
    ] = None,
    mode: Annotated[str, typer.Option(help="Whose writes: own, arriving or all.")] = "own",
    place: Annotated[
        str, typer.Option(metavar="PLACE", help="Where it runs: all, here, region=NAME, or a node.")
    ] = "all",
    scope: Annotated[
        str | None, typer.Option(metavar="SCOPE", help="Share the output, with this scope.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=4096, help="Rows that are scored together at most.")] = 512,
    tries: Annotated[int, typer.Option(min=1, max=100, help="Times that a row may fail.")] = 3,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="For decoding, or for asking, such as max_tokens=20. Repeatable."
        ),
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Score again what is there when the model's version changes.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Have a model score the rows of a table as they are written."""
    from psycopg.types.json import Jsonb

    from atoll.cli.rows import fetch

    postgres = running_postgres(find_home(home))
    declared = {
        "name": name,
        "source": on,
        "input": input,
        "model": model,
        "output": into,
        "kind": kind,
        "task": task,
        "columns": columns,
        "condition": where,
        "mode": mode,
        "place": place,
        "scope": scope,
        "batch": batch,
        "tries": tries,
        "options": Jsonb(dict(_option(text) for text in option or ())),
        "rescore": rescore,
    }
    fetch(postgres, "pipelines", "add", declared)
    typer.echo(f"{name}: rows of {on} are scored by {model} into {into}")
    known = {row["model"] for row in fetch(postgres, "models", "states")}
    if model.partition(":")[0] not in known:
        typer.echo(f'This node has no model "{model}": rows wait until it has.', err=True)


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE, such as max_tokens=20")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


@group.command("list")
def list_pipelines(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List pipelines, and how each is on this node."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "pipelines", "listing")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    titles = (
        "pipeline",
        "on",
        "model",
        "into",
        "state",
        "waiting",
        "oldest",
        "dead",
        "scored",
        "per s",
        "problem",
    )
    print_table(titles, [_cells(row) for row in found], ("waiting", "oldest", "dead", "scored", "per s"))


def _cells(row: dict[str, Any]) -> list[str]:
    oldest = row["oldest_seconds"]
    return [
        row["name"],
        row["source"],
        row["model"],
        row["output"],
        row["state"],
        str(row["waiting"]),
        "" if oldest is None else f"{oldest:.1f} s",
        str(row["dead"]),
        str(row["scored"]),
        f"{row['per_second']:.1f}",
        row["problem"] or "",
    ]


@group.command()
def dead(name: NameArgument, home: HomeOption = None) -> None:
    """List rows that were given up, each with its reason."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "pipelines", "dead", (name,))
    rows = [[json.dumps(row["key"]), str(row["tries"]), row["problem"] or ""] for row in found]
    print_table(("key", "tries", "problem"), rows, ("tries",))


@group.command()
def pause(name: NameArgument, home: HomeOption = None) -> None:
    """Stop scoring on every node; rows wait."""
    _do(home, "pause", (name, True))


@group.command()
def resume(name: NameArgument, home: HomeOption = None) -> None:
    """Go on."""
    _do(home, "pause", (name, False))


@group.command()
def backfill(name: NameArgument, home: HomeOption = None) -> None:
    """Score the rows that this node has already."""
    _do(home, "backfill", (name,))


@group.command()
def retry(name: NameArgument, home: HomeOption = None) -> None:
    """Put rows that failed on this node back into the queue."""
    rows = _do(home, "retry", (name,))[0]["rows"]
    typer.echo(f"{rows} rows are tried again")


@group.command()
def drop(name: NameArgument, home: HomeOption = None) -> None:
    """End a pipeline on every node. What it wrote stays."""
    _do(home, "drop", (name,))


def _do(home: str | None, what: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    from atoll.cli.rows import fetch

    return fetch(running_postgres(find_home(home)), "pipelines", what, values)
