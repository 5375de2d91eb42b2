"""`atoll up`: run the node of a home in the foreground."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from atoll.cli.home import HomeOption

if TYPE_CHECKING:
    from atoll.node.home import HomeChoice
    from atoll.node.opening import Opened


def up(
    home: HomeOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the node, unique in its atoll.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of the node.")] = None,
    tier: Annotated[str | None, typer.Option(help="edge, hub or cloud.")] = None,
    http: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where HTTP listens, or off.")] = None,
    link: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where peers connect, or off.")
    ] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="Addresses that peers are told to dial.")
    ] = None,
    dial: Annotated[
        str | None, typer.Option(metavar="NAME=HOST:PORT,...", help="Other addresses for single peers.")
    ] = None,
    postgres: Annotated[
        str | None, typer.Option(metavar="16|18", help="Major version of PostgreSQL.")
    ] = None,
    listen_postgres: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="TCP address for PostgreSQL clients.")
    ] = None,
    wal_keep: Annotated[str | None, typer.Option(metavar="SIZE", help="WAL kept for an absent peer.")] = None,
    link_compression: Annotated[str | None, typer.Option(help="auto, on or off.")] = None,
    link_rate: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Bytes a second on each link.")
    ] = None,
    future_bound: Annotated[
        str | None, typer.Option(metavar="TIME", help="Changes stamped further ahead are parked.")
    ] = None,
    disk_floor: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Below this much free disk, no writes.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json.")] = None,
) -> None:
    """Run the node of a home, making the home first where there is none."""
    from atoll.node.account import server_account
    from atoll.node.config import BY_KEY
    from atoll.node.home import choose_home
    from atoll.node.opening import opened

    flags = {key: value for key, value in locals().items() if key in BY_KEY}
    choice = choose_home(home, os.environ, server_account())
    with opened(choice.path, flags, os.environ) as found:
        asyncio.run(_run(found, choice))


async def _run(found: Opened, choice: HomeChoice) -> None:
    from atoll.node.process import run_node
    from atoll.observe.logs import start_logging, stop_logging

    if choice.note:
        typer.echo(choice.note)
    settings = found.settings
    typer.echo(f"node {settings.name} ({settings.tier}, region {settings.region}) in {found.home.path}")
    start_logging(found.home.logs / "node.log", settings.log_level, settings.log_format)
    try:
        await run_node(found, typer.echo)
    finally:
        stop_logging()
