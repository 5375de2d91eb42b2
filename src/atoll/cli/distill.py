"""`atoll distill`: a smaller model learns from a larger one."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from atoll.cli.home import HomeOption
from atoll.cli.training_rows import DsnOption, RoleOption, RowsOption, SqlOption, read_examples
from atoll.cli.tune import (
    BaseArgument,
    BatchOption,
    EveryOption,
    HeldOutOption,
    JsonOption,
    OutputOption,
    PatienceOption,
    RateOption,
    SeedOption,
    StepsOption,
    ThreadsOption,
    TokensOption,
    say,
    use_threads,
)


def distill(
    base: BaseArgument,
    output: OutputOption,
    sql: SqlOption = None,
    rows: RowsOption = None,
    role: RoleOption = None,
    dsn: DsnOption = None,
    student: Annotated[
        str, typer.Option(help="What it begins as: some layers, a narrower width, or scratch.")
    ] = "layers",
    share: Annotated[float, typer.Option(min=0.05, max=1.0, help="Of layers or of width that it has.")] = 0.5,
    teacher: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="How much the teacher counts beside the text; 0: alone.")
    ] = 0.5,
    temperature: Annotated[
        float, typer.Option(min=0.1, max=20.0, help="How much of the teacher's doubts is seen.")
    ] = 1.0,
    steps: StepsOption = 500,
    batch: BatchOption = 8,
    rate: RateOption = 5e-4,
    every: EveryOption = 50,
    patience: PatienceOption = 5,
    tokens: TokensOption = 512,
    held_out: HeldOutOption = 0.1,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Have a smaller model learn from BASE what it thinks of rows."""
    from atoll.training.distill import Options
    from atoll.training.distill import distill as run
    from atoll.training.loop import Schedule

    schedule = Schedule(steps, batch, rate, every, patience, seed)
    options = Options(student, share, teacher, temperature, tokens, held_out, schedule)
    examples = read_examples(rows, sql, role, dsn, home)
    use_threads(threads)
    facts = run(base, output, examples, options, say)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(
        f"held out: teacher {facts['loss_teacher']:.4f}; student {facts['loss_before']:.4f} before,"
        f" {facts['loss_after']:.4f} after {facts['steps']} steps ({facts['seconds']:.0f} s)"
    )
    typer.echo(f"weights: {facts['weights_teacher']:,} of the teacher, {facts['weights']:,} of the student")
