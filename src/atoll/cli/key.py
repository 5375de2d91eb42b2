"""`atoll key`: keys with which programs ask models over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from datetime import datetime

KEY_BYTES = 32
group = typer.Typer(help="API keys of programs that ask models.", no_args_is_help=True)


@group.command()
def add(
    name: Annotated[str, typer.Argument(help="What to call it, for those who look at the list.")],
    may_read: Annotated[
        bool, typer.Option("--may-read", help="It may have rows quoted to a model, as role app reads them.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Make a key and print it, once. It is good on every node of the atoll."""
    import secrets

    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError
    from atoll.web.keys import hash_key

    postgres = running_postgres(find_home(home))
    key = f"atoll-{secrets.token_urlsafe(KEY_BYTES)}"
    if not fetch(postgres, "keys", "add", (name, hash_key(key), may_read)):
        raise DataError("key-exists", f'there is a key "{name}" already', hint="Choose another name.")
    typer.echo(key)


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
        [row["name"], _day(row["made_at"]), _day(row["revoked_at"]), "rows" if row["may_read"] else ""]
        for row in found
    ]
    print_table(("key", "made", "revoked", "may read"), rows)


def _day(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment is not None else ""


@group.command()
def rm(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    home: HomeOption = None,
) -> None:
    """Revoke a key, on every node that hears of it."""
    from atoll.cli.rows import fetch
    from atoll.domain.errors import DataError

    postgres = running_postgres(find_home(home))
    if not fetch(postgres, "keys", "revoke", (name,)):
        raise DataError("key-unknown", f'there is no key "{name}"', hint="See: atoll key list")
    typer.echo(f"{name} is revoked")
