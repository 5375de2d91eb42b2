"""How far a long piece of work is, told while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """On a terminal one line that changes; elsewhere a line for each thing that is begun."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _once_a_step()
        return
    with console.status("begins") as status:
        yield status.update


def _once_a_step() -> Callable[[str], None]:
    said: set[str] = set()

    def say(word: str) -> None:
        head = word.partition(":")[0]
        if head not in said:
            said.add(head)
            typer.echo(head, err=True)

    return say
