"""`atoll runtime`: the engine of language models, fitted to this machine."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from atoll.node.home import Home

group = typer.Typer(help="The engine of language models.", no_args_is_help=True)


@group.callback()
def main() -> None:
    """The engine of language models, fitted to this machine."""


@group.command()
def tune(
    model: Annotated[
        str | None, typer.Option(help="Measure with this model of files; else with one that came along.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=64, help="Compile so many files at once.")] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Go back to the engine as it came.")] = False,
    home: HomeOption = None,
) -> None:
    """Build the engine's arithmetic for this processor, and keep it only if it is faster."""
    from atoll.runtimes.llama import measure, native
    from atoll.runtimes.llama.build import Build

    found = find_home(home)
    if undo:
        shutil.rmtree(found.native, ignore_errors=True)
        typer.echo("models that are loaded from now on use the engine as it came")
        return
    file = _model_file(found, model)
    work = found.native / "work"
    with _progress() as say:
        built = Build(work, jobs or os.cpu_count() or 1, say).run()
        library = built / native.LIBRARY
        pairs = asyncio.run(measure.compare(file, library, lambda done, of: say("measure", done, of)))
    verdict = measure.judge(pairs)
    told = f"{verdict.ratio:.2f} times as fast (95 %: {verdict.low:.2f} to {verdict.high:.2f})"
    if verdict.wins:
        native.keep(found.native, built, {"ratio": verdict.ratio, "low": verdict.low, "high": verdict.high})
        typer.echo(f"kept: {told}; models that are loaded from now on use it")
    else:
        typer.echo(f"not kept: {told}, and it has to be {measure.MARGIN:g} times at least")
    shutil.rmtree(work)


@group.command()
def split(
    undo: Annotated[bool, typer.Option("--undo", help="Hold no layers for others any more.")] = False,
    home: HomeOption = None,
) -> None:
    """Build what it takes to run a model together with other nodes, and to hold layers for them."""
    from atoll.runtimes.llama.build import Build
    from atoll.runtimes.llama.split import plugin

    found = find_home(home)
    if undo:
        shutil.rmtree(found.split, ignore_errors=True)
        typer.echo("this node holds no layers for others any more; models that are loaded now stay")
        return
    if plugin.plugin_in(found.split) is not None:
        typer.echo("it is built already: this node can split models, and hold layers for others")
        return
    with _progress() as say:
        plugin.make(found.split, Build(found.split / "work", 1, say))
    typer.echo("built: this node can split models, and holds layers for nodes of its region")


def _model_file(home: Home, model: str | None) -> Path:
    from atoll.domain.errors import DataError
    from atoll.domain.models import Skill
    from atoll.start import start_models

    if model is None:
        return next(one.path for one in start_models() if "generate" in one.skills)
    from atoll.cli.adapter import base_of
    from atoll.registry.store import Store

    found = base_of(running_postgres(home), Store(home.models), model)
    if found.file is None or Skill.GENERATE not in found.skills:
        raise DataError("model-unknown", f'model "{model}" is no language model whose file is on this node')
    return found.file


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, elsewhere one line for each step."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        steps: list[str] = []

        def say(what: str, done: int, of: int) -> None:
            bar.update(task, description=what, completed=done, total=of or None)
            if not console.is_terminal and what not in steps:
                console.print(what)
                steps.append(what)

        yield say
