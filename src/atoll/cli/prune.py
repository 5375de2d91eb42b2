"""`atoll prune`: a model with weights or structure less, healed by a little training."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from atoll.cli.home import HomeOption
from atoll.cli.training_rows import DsnOption, RoleOption, RowsOption, SqlOption, read_examples
from atoll.cli.tune import (
    BaseArgument,
    BatchOption,
    HeldOutOption,
    JsonOption,
    OutputOption,
    RateOption,
    SeedOption,
    ThreadsOption,
    TokensOption,
    say,
    use_threads,
)


def prune(
    base: BaseArgument,
    output: OutputOption,
    sql: SqlOption = None,
    rows: RowsOption = None,
    role: RoleOption = None,
    dsn: DsnOption = None,
    method: Annotated[
        str,
        typer.Option(help="Zeros: magnitude, wanda, sparsegpt. Structure: layers, width, heads."),
    ] = "width",
    share: Annotated[float, typer.Option(min=0.01, max=0.95, help="How much of it goes.")] = 0.5,
    pattern: Annotated[
        str | None, typer.Option(help="2:4, two zeros among each four; for zeros only.")
    ] = None,
    heal: Annotated[int, typer.Option(min=0, max=1_000_000, help="Steps of training after it.")] = 100,
    batch: BatchOption = 8,
    rate: RateOption = 2e-4,
    tokens: TokensOption = 512,
    held_out: HeldOutOption = 0.1,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make a model smaller or sparser, and let it learn again what that cost."""
    from atoll.training.loop import Schedule
    from atoll.training.prune import Options
    from atoll.training.prune import prune as run

    if pattern not in (None, "2:4"):
        raise typer.BadParameter("the only pattern is 2:4", param_hint="--pattern")
    every = max(1, heal // 4)
    schedule = Schedule(heal, batch, rate, every, seed=seed) if heal else None
    options = Options(method, share, pattern is not None, tokens, held_out, seed, schedule)
    examples = read_examples(rows, sql, role, dsn, home)
    use_threads(threads)
    facts = run(base, output, examples, options, say)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(
        f"held out: {facts['loss_before']:.4f} before, {facts['loss_pruned']:.4f} pruned,"
        f" {facts['loss_after']:.4f} after healing"
    )
    typer.echo(
        f"weights: {facts['weights_before']:,} before, {facts['weights']:,} after;"
        f" {facts['zeros']:,} of them are zero"
    )
    if not facts["is_smaller"]:
        typer.echo("zeros make no engine here faster, and the file no smaller: see docs/howto/tune.md")
