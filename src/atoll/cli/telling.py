"""How far a long piece of work is, told while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable


def told() -> Any:
    """On a terminal one line that changes; elsewhere a line for each thing that is begun."""
    from contextlib import contextmanager

    @contextmanager
    def telling() -> Any:
        from rich.console import Console

        console = Console(stderr=True)
        if console.is_terminal:
            with console.status("begins") as status:
                yield status.update
        else:
            yield _once_a_step()

    return telling()


def _once_a_step() -> Callable[[str], None]:
    said: set[str] = set()

    def say(word: str) -> None:
        head = word.partition(":")[0]
        if head not in said:
            said.add(head)
            typer.echo(head, err=True)

    return say
