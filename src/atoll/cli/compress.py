"""`atoll compress`: makes a model smaller, by a recipe or by a few flags, and says what it cost.

`atoll compress SOURCE …` is short for `atoll compress run SOURCE …`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from atoll.cli.compress_plan import plan
from atoll.cli.home import HomeOption

if TYPE_CHECKING:
    from atoll.compress.recipe import Recipe


class RunsByDefault(TyperGroup):
    """A first word that is no command is what is to be compressed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


group = typer.Typer(help="Make models smaller.", no_args_is_help=True, cls=RunsByDefault)
group.command()(plan)


@group.command()
def run(
    source: Annotated[
        str,
        typer.Argument(help="A recipe (.toml), a folder of safetensors, an ONNX file, hf:…, oci:…, pypi:…."),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the result goes; a recipe says so."),
    ] = None,
    to: Annotated[
        str, typer.Option(help="The form: q4_0, q4_k_m, …, f16 or mixed; of ONNX: int8, int8-static, q4.")
    ] = "q4_0",
    method: Annotated[
        str | None,
        typer.Option(help="How to round: gptq, rtn, imatrix, plain; by default the best there is."),
    ] = None,
    group: Annotated[int, typer.Option(help="Weights with one scale, for gptq and rtn: 32, 64, 128.")] = 32,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text like those that the model will see.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Rows of the calibration that are used.")] = 128,
    length: Annotated[int, typer.Option(min=32, max=8192, help="Tokens of a row.")] = 256,
    embedding: Annotated[str, typer.Option(help="The form of the embedding and the output.")] = "q6_k",
    judge: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text to judge by, before and after.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="The result may not be larger.")] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(min=0, help="It may lose this share of perplexity; of ONNX, of accuracy or likeness."),
    ] = None,
    max_ms: Annotated[
        float | None,
        typer.Option(metavar="MS", help="It may take this long for a token here; in ONNX, for a call."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Add the result to the node's models under this name.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Compress a model, by a recipe or by flags; a run that was broken off goes on where it was."""
    from atoll.compress.recipe import Budget, Recipe, Task, read_recipe
    from atoll.compress.steps import ONNX_FORMS, ONNX_STEP
    from atoll.registry.sources.address import parse

    if source.endswith(".toml"):
        recipe = read_recipe(Path(source))
    elif output is None:
        raise typer.BadParameter("say where the result goes: --output FILE")
    elif source.endswith(".onnx") and to not in ONNX_FORMS:
        raise typer.BadParameter(f"an ONNX file becomes {', '.join(ONNX_FORMS)}", param_hint="--to")
    else:
        asked: dict[str, Any] = {
            "to": to,
            "method": method,
            "group": group,
            "rows": rows,
            "length": length,
            "embedding": embedding,
        }
        asked = {key: value for key, value in asked.items() if value is not None}
        if calibration is not None:
            asked["calibration"] = calibration
        if to == "mixed" and max_bytes is not None:
            asked["max_bytes"] = max_bytes
        task = Task("quantize", asked)
        if to in ONNX_FORMS:
            kept = ("to", "method", "group", "rows", "calibration")
            task = Task(ONNX_STEP, {key: value for key, value in asked.items() if key in kept})
        budget = Budget(max_bytes, None, max_loss, max_ms)
        recipe = Recipe(source if parse(source) else Path(source), output, (task,), judge, budget, name)
    follow(recipe)
    if recipe.name is not None:
        from atoll.cli.model_add import add

        add(str(recipe.output), name=recipe.name, home=home)


def follow(recipe: Recipe) -> None:
    from atoll.cli.fetching import files_of
    from atoll.cli.model_run import cache
    from atoll.cli.rows import print_table
    from atoll.cli.telling import telling
    from atoll.compress.cook import TITLES, cook, rows_of

    with files_of(str(recipe.source), cache(), to_change=True) as files, telling() as say:
        outcome = cook(replace(recipe, source=files.path), say)
    for facts in outcome.facts:
        told = {key: value for key, value in facts.items() if key != "notes" and value not in (None, 0)}
        typer.echo(", ".join(f"{key} {value}" for key, value in told.items()))
        for note in facts.get("notes", ()):
            typer.echo(note)
    if outcome.after is not None:
        print_table(TITLES, rows_of(outcome), TITLES[1:])
    if outcome.table is not None:
        from atoll.compress.onnx_judge import TITLES as ONNX_TITLES

        print_table(ONNX_TITLES, outcome.table, ONNX_TITLES[1:])
    typer.echo(f"written: {recipe.output}")
