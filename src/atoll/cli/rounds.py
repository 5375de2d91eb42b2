"""`atoll round`: nodes learn together, each from its own rows: what travels is how far an adapter moved."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli import flags
from atoll.cli.home import HomeOption, find_home, running_postgres
from atoll.cli.training_rows import DsnOption, RoleOption, RowsOption, SqlOption, read_examples
from atoll.cli.tune import (
    BaseArgument,
    BatchOption,
    HeldOutOption,
    JsonOption,
    SeedOption,
    ThreadsOption,
    TokensOption,
    say,
    use_threads,
)

if TYPE_CHECKING:
    from atoll.training.round_book import Fetch

PAUSE_SECONDS = 2.0
group = typer.Typer(help="Rounds: nodes learn together without moving rows.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the tuning.")]
OnceOption = Annotated[bool, typer.Option("--once", help="Do what can be done now, and end.")]


@group.command("open")
def open_tuning(
    name: NameArgument,
    base: BaseArgument,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many.")] = 5,
    wait: Annotated[str, typer.Option(metavar="TIME", help="For late nodes, in each round.")] = "1h",
    least: Annotated[
        int, typer.Option(min=1, max=10_000, help="Nodes without which nothing is averaged.")
    ] = 2,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Steps of a round on each node.")] = 50,
    batch: BatchOption = 8,
    rate: Annotated[float, typer.Option(min=1e-8, max=1.0, help="How far a step goes.")] = 1e-3,
    rank: Annotated[int, typer.Option(min=1, max=512, help="Rank of the adapter.")] = 16,
    tokens: TokensOption = 512,
    held_out: HeldOutOption = 0.2,
    clip: Annotated[
        float, typer.Option(min=1e-6, help="How far a node may move the adapter in a round.")
    ] = 10.0,
    noise: Annotated[
        float,
        typer.Option(min=0.0, max=1000.0, help="Noise that hides a node's rows, as a share of the clip."),
    ] = 0.0,
    trim: Annotated[
        float | None, typer.Option(min=0.01, max=0.49, help="Leave out this share of extremes on each side.")
    ] = None,
    scope: Annotated[str, typer.Option(help="How far what is learned may travel.")] = "global",
    seed: SeedOption = 0,
    home: HomeOption = None,
) -> None:
    """Begin a tuning that nodes of its scope may take part in. This node averages what they send."""
    from psycopg.types.json import Jsonb

    from atoll.training import round_book, round_work
    from atoll.training.rounds import DELTA, Wish, epsilon, read_wish

    wish = Wish(
        rounds=rounds,
        steps=steps,
        batch=batch,
        rate=rate,
        rank=rank,
        tokens=tokens,
        held_out=held_out,
        seed=seed,
        clip=clip,
        noise=noise,
        way="mean" if trim is None else "trimmed",
        trim=Wish.trim if trim is None else trim,
        least=least,
        wait_seconds=flags.duration("wait", wait),
    )
    read_wish(wish.told())
    fetch = _statements(home)
    use_threads(None)
    begun = round_work.beginning(base, wish)
    told = {"name": name, "base": round_work.weights_of(base), "wish": Jsonb(wish.told()), "scope": scope}
    fetch("open", told)
    round_book.put(fetch, name, 0, round_book.START, 0, begun)
    size = sum(one.nbytes for one in begun.values()) / 1e6
    typer.echo(f"{name}: {rounds} rounds; a node sends {size:.1f} MB in each")
    if noise:
        hidden = epsilon(noise, rounds)
        typer.echo(f"all rows of a node together: epsilon {hidden:.3g} at delta {DELTA:g}")


@group.command()
def work(
    name: NameArgument,
    base: BaseArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Folder for the adapter that is kept here.")
    ],
    sql: SqlOption = None,
    rows: RowsOption = None,
    role: RoleOption = None,
    dsn: DsnOption = None,
    once: OnceOption = False,
    threads: ThreadsOption = None,
    home: HomeOption = None,
) -> None:
    """Take part: learn from this node's rows, round by round, and keep what helps here."""
    import numpy as np

    from atoll.training import round_book, round_work

    fetch = _statements(home)
    tuning = round_book.find(fetch, name)
    examples = read_examples(rows, sql, role, dsn, home)
    use_threads(threads)
    # What hides rows must not be known to anybody, so its seed is the system's.
    worker = round_work.worker(fetch, tuning, base, output, examples, np.random.default_rng(), say)
    is_told = False
    while (did := worker.step()) != "done":
        if tuning.keeper == tuning.me and round_book.average(fetch, worker.tuning, say):
            continue
        if did == "wait":
            if once:
                return
            if not is_told:
                say("waiting for the others")
            time.sleep(PAUSE_SECONDS)
        is_told = did == "wait"
    if (output / round_work.KEPT).exists():
        typer.echo(
            f"serve it: atoll model add {output / round_work.KEPT / 'adapter.gguf'} --adapter-of MODEL"
        )


@group.command()
def average(name: NameArgument, once: OnceOption = False, home: HomeOption = None) -> None:
    """Average what nodes send, on the node that opened the tuning; it needs no rows and no torch."""
    from atoll.domain.errors import DataError
    from atoll.training import round_book

    fetch = _statements(home)
    while True:
        tuning = round_book.find(fetch, name)
        if tuning.keeper != tuning.me:
            raise DataError(
                "tuning-elsewhere",
                f'tuning "{name}" is averaged by node "{tuning.keeper_name}"',
                hint="Take part in it: atoll round work",
            )
        if tuning.is_ended:
            return
        if not round_book.average(fetch, tuning, say):
            if once:
                return
            time.sleep(PAUSE_SECONDS)


@group.command("list")
def list_tunings(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the tunings, and how far each is."""
    from atoll.cli.rows import print_table

    found = _statements(home)("listing", None)
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    titles = ("tuning", "round", "of", "nodes", "by", "scope", "began", "ended")
    lines = [
        [
            row["name"],
            "" if row["round"] is None else str(row["round"]),
            str(row["wish"].get("rounds", "")),
            str(row["nodes"]),
            row["keeper"],
            row["scope"],
            f"{row['made_at']:%Y-%m-%d %H:%M}",
            f"{row['ended_at']:%Y-%m-%d %H:%M}" if row["ended_at"] else "",
        ]
        for row in found
    ]
    print_table(titles, lines, titles[1:4])


@group.command()
def show(name: NameArgument, as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Show what each node found of each round on its own rows."""
    from atoll.cli.rows import print_table
    from atoll.training import round_book

    fetch = _statements(home)
    tuning = round_book.find(fetch, name)
    found = fetch("verdicts", (name,))
    if as_json:
        told: dict[str, Any] = {"name": name, "wish": tuning.wish.told(), "verdicts": found}
        typer.echo(json.dumps(told, indent=1, default=str))
        return
    titles = ("round", "node", "rows", "before", "after", "kept")
    lines = [
        [
            str(row["round"]),
            row["node"],
            f"{row['rows']:,}",
            f"{row['before']:.4f}",
            f"{row['after']:.4f}",
            "yes" if row["is_kept"] else "no",
        ]
        for row in found
    ]
    print_table(titles, lines, (titles[0], *titles[2:5]))


@group.command()
def end(name: NameArgument, home: HomeOption = None) -> None:
    """End a tuning before its last round. What nodes have kept stays."""
    from atoll.domain.errors import DataError

    if not _statements(home)("end", (name,)):
        raise DataError(
            "tuning-unknown",
            f'there is no tuning "{name}" that this node could end',
            hint="See: atoll round list",
        )
    typer.echo(f"{name} is ended")


def _statements(home: str | None) -> Fetch:
    from atoll.cli.rows import fetch

    postgres = running_postgres(find_home(home))
    return lambda statement, values: fetch(postgres, "rounds", statement, values)
