"""`atoll tune`: a model learns from rows, by an adapter beside it or by all of its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from atoll.cli.home import HomeOption
from atoll.cli.training_rows import DsnOption, RoleOption, RowsOption, SqlOption, read_examples

BaseArgument = Annotated[Path, typer.Argument(metavar="BASE", help="Folder with the model: safetensors.")]
OutputOption = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")]
StepsOption = Annotated[int, typer.Option(min=1, max=1_000_000, help="Steps at most.")]
BatchOption = Annotated[int, typer.Option(min=1, max=1024, help="Rows of a step.")]
RateOption = Annotated[float, typer.Option(min=1e-8, max=1.0, help="How far a step goes.")]
EveryOption = Annotated[int, typer.Option(min=1, help="Steps between two judgements and checkpoints.")]
PatienceOption = Annotated[int, typer.Option(min=1, help="Judgements without a better one, until the end.")]
TokensOption = Annotated[int, typer.Option(min=8, max=131_072, help="Tokens of a row at most.")]
SeedOption = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of all that is left to chance.")]
HeldOutOption = Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of rows that only judge.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, max=1024, help="Threads; one per core if not given.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def tune(
    base: BaseArgument,
    output: OutputOption,
    sql: SqlOption = None,
    rows: RowsOption = None,
    role: RoleOption = None,
    dsn: DsnOption = None,
    rank: Annotated[int, typer.Option(min=1, max=512, help="Rank of the adapter.")] = 16,
    alpha: Annotated[
        float | None, typer.Option(min=0.01, help="Its strength; the rank if not given.")
    ] = None,
    quantized: Annotated[
        bool, typer.Option("--quantized", help="Hold the model in four bits meanwhile (QLoRA).")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="No adapter: learn with all weights.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the changed model too, in DIR/merged.")
    ] = False,
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Learn the words' vectors too, whole: makes DIR/merged only."),
    ] = False,
    steps: StepsOption = 200,
    batch: BatchOption = 8,
    rate: RateOption = 5e-4,
    every: EveryOption = 25,
    patience: PatienceOption = 5,
    tokens: TokensOption = 512,
    held_out: HeldOutOption = 0.1,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Have a model learn from rows. What is interrupted goes on when it is said again."""
    from atoll.training.loop import Schedule
    from atoll.training.tune import Options
    from atoll.training.tune import tune as run

    if full and (quantized or merge or embeddings):
        raise typer.BadParameter(
            "--full has no adapter, so it goes without --quantized, --merge and --embeddings"
        )
    method = "full" if full else "qlora" if quantized else "lora"
    schedule = Schedule(steps, batch, rate, every, patience, seed)
    options = Options(method, rank, alpha, tokens, held_out, merge, embeddings, schedule)
    examples = read_examples(rows, sql, role, dsn, home)
    use_threads(threads)
    facts = run(base, output, examples, options, say)
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    print_course(facts)
    _print_memory(facts, method)
    if embeddings:
        typer.echo(f"make a file of it: atoll compress {output / 'merged'} -o MODEL.gguf --to q8_0")
    elif not full:
        typer.echo(f"serve it: atoll model add {output / 'adapter.gguf'} --adapter-of MODEL")


def say(word: str) -> None:
    typer.echo(word, err=True)


def use_threads(count: int | None) -> None:
    from atoll.training.steps import require

    require()
    if count is not None:
        import torch

        torch.set_num_threads(count)


def print_course(facts: dict[str, Any]) -> None:
    typer.echo(
        f"held out: {facts['loss_before']:.4f} before, {facts['loss_after']:.4f} after"
        f" (perplexity {facts['perplexity_before']:.2f}, {facts['perplexity_after']:.2f});"
        f" best at step {facts['best_step']} of {facts['steps']}, {facts['seconds']:.0f} s"
    )


def _print_memory(facts: dict[str, Any], method: str) -> None:
    from atoll.cli.rows import print_table

    typer.echo(f"{facts['learned']:,} weights learned, beside {facts['weights']:,}")
    titles = ("memory (MB)", "weights", "gradients", "optimizer", "kept for gradients", "total")
    both = [(method, facts["memory"])] + ([("full", facts["memory_full"])] if method != "full" else [])
    lines = [[name, *(f"{count / 1e6:,.1f}" for count in told.values())] for name, told in both]
    print_table(titles, lines, titles[1:])
    typer.echo(f"at most {facts['memory_peak'] / 1e6:,.0f} MB in this process")
