"""`atoll route calibrate`: asks two models what is known already; when can the small one be trusted?"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from atoll.router.cascades.calibrate import Choice, Examples, Line

ROWS_MAX = 20_000
TOKENS = 64


def calibrate(
    first: Annotated[str, typer.Argument(help="The small model.")],
    then: Annotated[str, typer.Argument(help="The larger model, or a route that leads to it.")],
    file: Annotated[
        Path | None, typer.Argument(help="Lines of JSON, or a .csv file, each row with its right answer.")
    ] = None,
    sql: Annotated[str | None, typer.Option(help="Rows of a query on this node, instead of a file.")] = None,
    given: Annotated[str, typer.Option("--input", metavar="COLUMN", help="What is asked.")] = "input",
    label: Annotated[str, typer.Option(metavar="COLUMN", help="What is right.")] = "label",
    measure: Annotated[
        str | None,
        typer.Option(help="mean_logprob, min_margin, entropy or agreement; of tensors score."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Reach this accuracy, with as little as can be.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Let no more than this share go on.")
    ] = None,
    certainty: Annotated[float, typer.Option(min=0.5, max=0.9999, help="That the target is kept.")] = 0.95,
    rows: Annotated[int, typer.Option(min=10, max=ROWS_MAX, help="Rows at most, chosen by chance.")] = 1000,
    samples: Annotated[int, typer.Option(min=2, max=16, help="For agreement.")] = 3,
    tokens: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of an answer at most.")] = TOKENS,
    fit: Annotated[
        bool, typer.Option("--fit", help="Fit a calibration on one half, the threshold on the other.")
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of the choice of rows; else made up, and printed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """Find the threshold of a cascade, with what it comes to. 1 where none keeps the target."""
    from atoll.cli.cascade_trial import Trial
    from atoll.domain.errors import ConfigError
    from atoll.router.cascades.calibrate import Examples
    from atoll.router.policy import cascade

    if (accuracy is None) is (share is None):
        raise ConfigError("config-invalid", "choose one target", hint="Give --accuracy or --share.")
    node = find_home(home)
    seed = random.randrange(10**6) if seed is None else seed  # noqa: S311
    chance = random.Random(seed)  # noqa: S311
    found = _sample(_rows(file, sql, node, given, label), rows, chance)
    trial = Trial(node, first, then, tokens)
    policy = cascade.parse(
        {
            "first": first,
            "then": then,
            "measure": measure or trial.usual_measure(),
            "threshold": 0.0,
            "samples": samples,
        }
    )
    cascade.check(policy, trial.skill)
    seen = list(_with_progress(trial.ask(policy, found), len(found)))
    chance.shuffle(seen)
    calibration: dict[str, Any] = {}
    if fit:
        half = len(seen) // 2
        calibration, seen = trial.fit(policy, seen[:half]), seen[half:]
    read = cascade.parse(_policy(policy, 0.0, calibration)).calibration
    examples = Examples([one.example(read) for one in seen])
    choice = (
        examples.for_accuracy(accuracy, certainty)
        if accuracy is not None
        else examples.for_share(share or 0.0, certainty)
    )
    told = {
        "seed": seed,
        "rows": len(seen),
        "certainty": certainty,
        "ways": _ways(examples, choice, certainty),
        "threshold": choice.threshold,
        "why": choice.why,
        "cascade": None if choice.threshold is None else _policy(policy, choice.threshold, calibration),
    }
    typer.echo(json.dumps(told, indent=1)) if as_json else _print(told)
    if choice.threshold is None:
        raise typer.Exit(1)


def _rows(file: Path | None, sql: str | None, node: Any, given: str, label: str) -> Iterator[tuple[Any, Any]]:
    """What is asked and what is right, row by row."""
    from atoll.cli.labelled import rows_of
    from atoll.domain.errors import DataError

    if (file is None) is (sql is None):
        raise DataError("request-malformed", "the labelled rows are in one file, or come of one query")
    for number, row in enumerate(rows_of(file) if file is not None else _of_query(node, sql or ""), 1):
        if not isinstance(row, dict) or given not in row or label not in row:
            raise DataError(
                "request-malformed",
                f'row {number} has no "{given}" and "{label}"',
                hint="Name the columns: --input COLUMN --label COLUMN",
            )
        yield row[given], row[label]


def _of_query(node: Any, sql: str) -> Iterator[dict[str, Any]]:
    """At most so many that they can be held; which of more they are is up to the query."""
    import asyncio

    import psycopg
    from psycopg.rows import dict_row

    from atoll.sql.errors import explained

    async def fetch() -> list[dict[str, Any]]:
        async with await running_postgres(node).connect() as connection:
            await connection.execute("set transaction read only")
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(sql.encode())
            return await cursor.fetchmany(ROWS_MAX) if cursor.description else []

    try:
        yield from asyncio.run(fetch())
    except psycopg.Error as error:
        raise explained(error) from error


def _sample(rows: Iterator[tuple[Any, Any]], most: int, chance: random.Random) -> list[tuple[Any, Any]]:
    """So many of them, each as likely as any other, however many there are."""
    from atoll.domain.errors import DataError

    kept: list[tuple[Any, Any]] = []
    for number, row in enumerate(rows):
        if number < most:
            kept.append(row)
        elif (place := chance.randrange(number + 1)) < most:
            kept[place] = row
    if not kept:
        raise DataError("request-malformed", "there is no row with a right answer")
    return kept


def _with_progress(seen: Iterator[Any], count: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from seen
        return
    yield from track(seen, "asking both models", total=count, console=console)


def _ways(examples: Examples, choice: Choice, certainty: float) -> list[dict[str, Any]]:
    from atoll.router.cascades.calibrate import lower

    def certain(line: Line) -> float:
        """Of a threshold that was chosen because it does well here, no more than it was chosen for."""
        if line.threshold is not None and choice.accuracy is not None:
            return choice.accuracy
        return lower(line.right, line.count, certainty)

    return [
        {
            "way": line.way,
            "accuracy": line.accuracy,
            "accuracy_at_least": certain(line),
            "share_here": line.share_here,
            "requests_gone_on": line.gone_on,
        }
        for line in examples.side_by_side(choice.threshold)
    ]


def _policy(policy: Any, threshold: float, calibration: dict[str, Any]) -> dict[str, Any]:
    told = {"first": policy.first, "then": policy.then, "measure": policy.measure, "threshold": threshold}
    if policy.measure == "agreement":
        told["samples"] = policy.samples
    return {**told, **({"calibration": calibration} if calibration else {})}


def _print(told: dict[str, Any]) -> None:
    from atoll.cli.rows import print_table

    typer.echo(f"{told['rows']:,} rows; seed {told['seed']}")
    titles = ["way", "accuracy", f"at least ({told['certainty']:.0%})", "answered here", "gone on"]
    print_table(
        titles,
        [
            [
                way["way"],
                f"{way['accuracy']:.3f}",
                f"{way['accuracy_at_least']:.3f}",
                f"{way['share_here']:.1%}",
                f"{way['requests_gone_on']:,}",
            ]
            for way in told["ways"]
        ],
        titles[1:],
    )
    if told["cascade"] is None:
        typer.echo(f"no threshold: {told['why']}", err=True)
        return
    typer.echo(f"threshold {told['threshold']:g}: with {told['certainty']:.0%} certainty, {told['why']}")
    typer.echo(json.dumps({"cascade": told["cascade"]}))
