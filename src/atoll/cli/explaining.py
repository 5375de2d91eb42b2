"""What is said of an error that has a cause and a cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from atoll.domain.errors import AtollError


def explain(error: AtollError) -> None:
    typer.echo(f"error: {error.message}", err=True)
    if error.detail:
        typer.echo(f"detail: {error.detail}", err=True)
    if error.hint:
        typer.echo(f"hint: {error.hint}", err=True)
    typer.echo(f"code: {error.code}", err=True)
