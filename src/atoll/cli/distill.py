"""`atoll distill`: a smaller language model, encoder or classifier learns from a larger one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from atoll.cli.home import HomeOption
from atoll.cli.training_rows import DsnOption, RoleOption, RowsOption, SqlOption, file_of_rows, read_examples
from atoll.cli.tune import (
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
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="Folder with safetensors; or a classifier in ONNX.")
    ],
    output: OutputOption,
    sql: SqlOption = None,
    rows: RowsOption = None,
    role: RoleOption = None,
    dsn: DsnOption = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="What it begins as: some layers, a narrower width, or scratch. Layers if not given; of a"
            " classifier, width."
        ),
    ] = None,
    share: Annotated[float, typer.Option(min=0.05, max=1.0, help="Of layers or of width that it has.")] = 0.5,
    teacher: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="How much the teacher counts beside the text: 0.5 if not given; 0: alone."
        ),
    ] = None,
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
    from atoll.compress.steps import require
    from atoll.runtimes.onnx.source import is_onnx
    from atoll.training.distill import Options
    from atoll.training.loop import Schedule

    schedule = Schedule(steps, batch, rate, every, patience, seed)
    options = Options(student, share, teacher, temperature, tokens, held_out, schedule)
    use_threads(threads)
    if is_onnx(base):
        require("torch", "onnx")
        from atoll.compress.onnx_distill import distill as teach_classifier

        with file_of_rows(rows, sql, role, dsn, home) as file:
            facts = teach_classifier(base, output, file, options, say)
    else:
        from atoll.training.distill import distill as teach

        facts = teach(base, output, read_examples(rows, sql, role, dsn, home), options, say)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    typer.echo(
        f"held out: teacher {facts['loss_teacher']:.4f}; student {facts['loss_before']:.4f} before,"
        f" {facts['loss_after']:.4f} after {facts['steps']} steps ({facts['seconds']:.0f} s)"
    )
    if "accuracy" in facts:
        typer.echo(f"right: teacher {facts['accuracy_teacher']:.2%}, student {facts['accuracy']:.2%}")
    if "agreement" in facts:
        typer.echo(f"the student says what its teacher says: {facts['agreement']:.2%}")
    typer.echo(f"weights: {facts['weights_teacher']:,} of the teacher, {facts['weights']:,} of the student")
