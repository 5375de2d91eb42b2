"""`atoll cache`: answers that are given again, where a route says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.router.answers.alike import Pair

group = typer.Typer(help="Answers that are given again, where a route says so.", no_args_is_help=True)
PAIRS_MAX = 20_000
TEXTS_AT_ONCE = 64
SHOWN = (1.0, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)


@group.command("list")
def list_answers(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List how many answers there are, by route and model."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "answers", "listing")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=float))
        return
    titles = ("route", "model", "answers", "made here", "for like questions", "kB", "newest", "scopes")
    rows = [
        [
            row["route"],
            row["model"],
            *(f"{row[name]:,}" for name in ("answers", "made_here", "alike")),
            f"{row['bytes'] / 1000:,.1f}",
            f"{row['newest_seconds']:,.0f} s ago",
            ", ".join(row["scopes"]),
        ]
        for row in found
    ]
    print_table(titles, rows, titles[2:7])


@group.command()
def clear(
    route: Annotated[str | None, typer.Argument(help="Of this route only.")] = None,
    home: HomeOption = None,
) -> None:
    """Forget answers, on all nodes that have them."""
    from atoll.cli.rows import fetch

    gone = fetch(running_postgres(find_home(home)), "answers", "clear", (route,))
    typer.echo(f"forgotten: {len(gone):,}")


@group.command()
def calibrate(
    encoder: Annotated[str, typer.Argument(help="The model that makes vectors of questions.")],
    file: Annotated[
        Path, typer.Argument(help="Lines of JSON, or a .csv file: two questions, and if they are the same.")
    ],
    one: Annotated[str, typer.Option(metavar="COLUMN", help="A question.")] = "one",
    other: Annotated[str, typer.Option(metavar="COLUMN", help="Another one.")] = "other",
    same: Annotated[
        str, typer.Option(metavar="COLUMN", help="Whether one answer serves both: true or false.")
    ] = "same",
    error: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="So many of the answers given again may be wrong.")
    ] = 0.02,
    certainty: Annotated[float, typer.Option(min=0.5, max=0.9999, help="That this is kept.")] = 0.95,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Find how alike two questions have to be for one answer. 1 where no threshold keeps the bound."""
    from atoll.router.answers.alike import choose, lines

    pairs = list(_pairs(find_home(home), encoder, list(_rows(file, one, other, same))))
    threshold = choose(pairs, error, certainty)
    told = {
        "pairs": len(pairs),
        "same": sum(pair.is_same for pair in pairs),
        "certainty": certainty,
        "lines": [
            {
                "threshold": line.threshold,
                "taken": line.taken,
                "wrong": line.wrong,
                "wrong_at_most": line.wrong_at_most(certainty),
                "share_found": line.share_found,
            }
            for line in lines(pairs)
            if line.threshold in (*SHOWN, threshold)
        ],
        "threshold": threshold,
        "cache": None if threshold is None else {"encoder": encoder, "threshold": threshold},
    }
    typer.echo(json.dumps(told, indent=1)) if as_json else _print(told, error)
    if threshold is None:
        raise typer.Exit(1)


def _rows(file: Path, *columns: str) -> Iterator[tuple[str, str, bool]]:
    from atoll.cli.labelled import rows_of
    from atoll.domain.errors import DataError

    truths = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    number = 0
    for number, row in enumerate(rows_of(file), 1):
        values = [row.get(name) for name in columns] if isinstance(row, dict) else []
        truth = truths.get(str(values[-1]).lower()) if values else None
        if truth is None or not all(isinstance(text, str) and text.strip() for text in values[:2]):
            raise DataError(
                "request-malformed",
                f"row {number} has no two questions, and whether they are the same",
                hint="Name the columns: --one COLUMN --other COLUMN --same COLUMN",
            )
        if number > PAIRS_MAX:
            raise DataError("request-malformed", f"there are more than {PAIRS_MAX:,} pairs")
        yield str(values[0]), str(values[1]), truth
    if number == 0:
        raise DataError("request-malformed", f"there is no pair in {file}")


def _pairs(home: Any, encoder: str, rows: list[tuple[str, str, bool]]) -> Iterator[Pair]:
    """Likeness as the node would find it."""
    import numpy as np

    from atoll.cli.asking import asked
    from atoll.router.answers.alike import Pair
    from atoll.router.answers.memory import are_alike

    texts = sorted({text for one, other, _ in rows for text in (one, other)})
    vectors: dict[str, Any] = {}
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        part = texts[begin : begin + TEXTS_AT_ONCE]
        with asked(home, "/v1/embeddings", {"model": encoder, "input": part}) as answer:
            found = json.loads(answer.read())["data"]
        vectors |= {text: np.array(one["embedding"]) for text, one in zip(part, found, strict=True)}
    for one, other, is_same in rows:
        likeness = float(vectors[one] @ vectors[other]) if are_alike(one, other) else 0.0
        yield Pair(likeness, is_same)


def _print(told: dict[str, Any], error: float) -> None:
    from atoll.cli.rows import print_table

    typer.echo(f"{told['pairs']:,} pairs, {told['same']:,} of them the same")
    titles = ["threshold", "taken for the same", "wrong", f"at most ({told['certainty']:.0%})", "found"]
    rows = [
        [
            f"{line['threshold']:g}",
            f"{line['taken']:,}",
            f"{line['wrong']:,}",
            f"{line['wrong_at_most']:.3f}",
            f"{line['share_found']:.1%}",
        ]
        for line in told["lines"]
    ]
    print_table(titles, rows, titles)
    if told["cache"] is None:
        typer.echo(f"no threshold: of none is it certain that no more than {error:g} are wrong", err=True)
        return
    typer.echo(f"threshold {told['threshold']:g}: of what is given again, no more than {error:g} is wrong")
    typer.echo(json.dumps({"cache": told["cache"]}))
