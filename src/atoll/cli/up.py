"""`atoll up`: run the node of a home in the foreground."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import typer

from atoll.cli import flags
from atoll.cli.home import HomeOption

if TYPE_CHECKING:
    from atoll.node.home import HomeChoice
    from atoll.node.opening import Opened


def up(
    home: HomeOption = None,
    name: flags.Name = None,
    region: flags.Region = None,
    tier: flags.Tier = None,
    http: flags.Http = None,
    link: flags.Link = None,
    advertise: flags.Advertise = None,
    dial: flags.Dial = None,
    postgres: flags.PostgresMajor = None,
    listen_postgres: flags.ListenPostgres = None,
    database: flags.Database = None,
    gateway: flags.Gateway = None,
    gateway_advertise: flags.GatewayAdvertise = None,
    questions: flags.Questions = None,
    questions_database: flags.QuestionsDatabase = None,
    wal_keep: flags.WalKeep = None,
    link_compression: flags.LinkCompression = None,
    link_rate: flags.LinkRate = None,
    receipts: flags.Receipts = None,
    repair: flags.Repair = None,
    future_bound: flags.FutureBound = None,
    disk_floor: flags.DiskFloor = None,
    models: flags.Models = None,
    models_memory: flags.ModelsMemory = None,
    keys: flags.KeysFlag = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
) -> None:
    """Run the node of a home, making the home first where there is none."""
    given = flags.given(locals())
    from atoll.node.account import server_account
    from atoll.node.home import choose_home
    from atoll.node.opening import opened

    choice = choose_home(home, os.environ, server_account())
    with opened(choice.path, given, os.environ) as found:
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
