"""`atoll budget`: what clouds may cost in a period, over all nodes together."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from atoll.cli import flags
from atoll.cli.home import HomeOption, find_home, running_postgres

MILLIONTHS = 1_000_000
MOST = 1e12
group = typer.Typer(help="Budgets: what clouds may cost, over all nodes together.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the budget.")]


@group.command("set")
def set_budget(
    name: NameArgument,
    amount: Annotated[
        float, typer.Argument(min=0, max=MOST, help="In the currency of prices; or so many tokens.")
    ],
    period: Annotated[str, typer.Option(metavar="TIME", help="How long it lasts, then anew.")] = "1d",
    in_tokens: Annotated[bool, typer.Option("--tokens", help="Count tokens, not their price.")] = False,
    home: HomeOption = None,
) -> None:
    """Say what may be spent in each period. This node hands it out, and it alone can change it."""
    from atoll.cli.rows import change

    wish = {
        "name": name,
        "amount": round(amount if in_tokens else amount * MILLIONTHS),
        "unit": "tokens" if in_tokens else "cost",
        "seconds": round(flags.duration("period", period)),
    }
    change(running_postgres(find_home(home)), "budgets", "set", wish)
    typer.echo(f"{name}: {amount:g} {'tokens ' if in_tokens else ''}every {period}")


@group.command("list")
def list_budgets(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the budgets, and how much of each is where in this period."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "budgets", "listing")
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    rows = [
        [
            row["name"],
            row["unit"],
            *(_shown(row["unit"], row[one]) for one in ("amount", "granted", "drawn", "held_here")),
            f"{row['period_seconds']} s",
            row["granter"],
        ]
        for row in found
    ]
    titles = ("budget", "of", "amount", "handed out", "drawn", "held here", "period", "from")
    print_table(titles, rows, titles[2:7])


def _shown(unit: str, amount: int) -> str:
    return f"{amount:,}" if unit == "tokens" else f"{amount / MILLIONTHS:,.6g}"


@group.command()
def rm(name: NameArgument, home: HomeOption = None) -> None:
    """End a budget. Routes that it pays for ask no cloud any more."""
    from atoll.cli.rows import change
    from atoll.domain.errors import DataError

    (row,) = change(running_postgres(find_home(home)), "budgets", "drop", (name,))
    if not row["is_done"]:
        raise DataError("budget-unknown", f'there is no budget "{name}"', hint="See: atoll budget list")
    typer.echo(f"{name} is ended")
