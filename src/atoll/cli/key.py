"""`atoll key`: keys with which programs ask models over HTTP, and what each of them may not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from datetime import datetime

KEY_BYTES = 32
NONE = "none"
group = typer.Typer(help="API keys of programs that ask models.", no_args_is_help=True)
NameArgument = Annotated[str, typer.Argument(help="Name of the key.")]
Rate = Annotated[
    str | None, typer.Option(metavar="N/TIME", help="Requests that each node takes of it: 60/min.")
]
TokenRate = Annotated[
    str | None, typer.Option(metavar="N/TIME", help="Tokens that each node spends on it: 20000/min.")
]
Budget = Annotated[
    str | None, typer.Option(metavar="NAME", help="What pays for it, on all nodes together: atoll budget.")
]
Scope = Annotated[str | None, typer.Option(help="Of all that is asked with it: region:eu stays there.")]
Tables = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="What it may read has to be in this table.")
]


@group.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it, for those who look at the list.")],
    may_read: Annotated[
        bool, typer.Option("--may-read", help="It may have rows quoted to a model, as role app reads them.")
    ] = False,
    rate: Rate = None,
    tokens: TokenRate = None,
    budget: Budget = None,
    scope: Scope = None,
    table: Tables = None,
    home: HomeOption = None,
) -> None:
    """Make a key and print it, once. It is good on every node of the atoll."""
    import secrets

    from psycopg.types.json import Jsonb

    from atoll.cli.rows import change
    from atoll.web.keys import hash_key

    postgres = running_postgres(find_home(home))
    key = f"atoll-{secrets.token_urlsafe(KEY_BYTES)}"
    told = _told(may_read, rate, tokens, budget, scope, table)
    change(postgres, "keys", "add", (name, hash_key(key), Jsonb(told)))
    typer.echo(key)


@group.command("set")
def set_key(
    name: NameArgument,
    may_read: Annotated[
        bool | None, typer.Option(help="Whether it may have rows quoted to a model, as role app reads them.")
    ] = None,
    rate: Rate = None,
    tokens: TokenRate = None,
    budget: Budget = None,
    scope: Scope = None,
    table: Tables = None,
    home: HomeOption = None,
) -> None:
    """Change what a key may, on every node. What is not named stays; `none` takes a limit away."""
    from psycopg.types.json import Jsonb

    from atoll.cli.rows import change

    told = _told(may_read, rate, tokens, budget, scope, table)
    if not told:
        raise typer.BadParameter("say what to change: see atoll key set --help")
    change(running_postgres(find_home(home)), "keys", "set", (name, Jsonb(told)))
    typer.echo(f"{name} is changed")


def _told(
    may_read: bool | None,
    rate: str | None,
    tokens: str | None,
    budget: str | None,
    scope: str | None,
    tables: list[str] | None,
) -> dict[str, Any]:
    given = {
        "may_read": may_read,
        "rate": rate,
        "token_rate": tokens,
        "budget": budget,
        "scope": scope,
        "tables": NONE if tables == [NONE] else tables,
    }
    said = {field: value for field, value in given.items() if value not in (None, [])}
    return {field: None if value == NONE else value for field, value in said.items()}


@group.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False,
    home: HomeOption = None,
) -> None:
    """List the keys that there are and were."""
    from atoll.cli.rows import fetch, print_table

    found = fetch(running_postgres(find_home(home)), "keys", "listing")
    if as_json:
        typer.echo(json.dumps(found, indent=1, default=str))
        return
    rows = [
        [
            row["name"],
            _day(row["made_at"]),
            _day(row["revoked_at"]),
            _read(row),
            *(row[field] or "" for field in ("rate", "token_rate", "budget", "scope")),
        ]
        for row in found
    ]
    print_table(("key", "made", "revoked", "may read", "requests", "tokens", "budget", "scope"), rows)


def _read(row: dict[str, Any]) -> str:
    return "" if not row["may_read"] else "rows" if row["tables"] is None else ", ".join(row["tables"])


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else ""


@group.command()
def rm(
    name: NameArgument,
    home: HomeOption = None,
) -> None:
    """Revoke a key, on every node that hears of it."""
    from atoll.cli.rows import change
    from atoll.domain.errors import DataError

    postgres = running_postgres(find_home(home))
    if not change(postgres, "keys", "revoke", (name,)):
        raise DataError("key-unknown", f'there is no key "{name}"', hint="See: atoll key list")
    typer.echo(f"{name} is revoked")
