"""`atoll measure`: what a model is worth and what it takes, or two of them side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def measure(
    models: Annotated[list[Path], typer.Argument(help="A model's file or folder, or two that are compared.")],
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text to read, or lines to embed.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="For classifiers: lines of JSON or a file of numpy, with labels."),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, max=4096, help="Rows of the text that are read.")] = 128,
    requests: Annotated[int, typer.Option(min=1, max=10_000, help="Requests to time.")] = 10,
    tokens: Annotated[int, typer.Option(min=2, max=128, help="Tokens of each answer.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the requests, and of how sure a difference is.")] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
) -> None:
    """Measure one model, or two side by side, with how sure their difference is; no node is needed."""
    from atoll.cli.alone import waiting
    from atoll.compress.measuring import Plan
    from atoll.compress.measuring import measure as find
    from atoll.domain.errors import ConfigError

    if len(models) > 2:
        raise typer.BadParameter("one model or two")
    for path in models:
        if not path.exists():
            raise ConfigError("model-missing", f"there is no {path}", hint="Correct the path.")
    with waiting("measuring") as say:
        lines = find(models, text, examples, Plan(rows, requests, tokens, seed), say)
    if as_json:
        found = {
            "models": [str(path) for path in models],
            "seed": seed,
            "lines": [one.told() for one in lines],
        }
        typer.echo(json.dumps(found, indent=1))
        return
    from atoll.cli.rows import print_table

    titles = ["", *(path.name for path in models), *(["difference (95 %)"] if len(models) == 2 else [])]
    print_table(titles, [_cells(line, len(models)) for line in lines], titles[1:])


def _cells(line: Any, count: int) -> list[str]:
    cells = [line.what, *("" if value is None else _number(value) for value in line.values)]
    if count == 1:
        return cells
    sure = line.difference
    if sure is not None and line.values[0] is None:
        return [*cells, f"{sure.low:.4f} to {sure.high:.4f}"]
    if sure is not None:
        word = "" if sure.is_certain else ", none that is certain"
        return [*cells, f"{sure.middle:+.2%} ({sure.low:+.2%} to {sure.high:+.2%}{word})"]
    first, second = line.values
    return [*cells, f"{second / first:.2f} ×" if first and second else ""]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
