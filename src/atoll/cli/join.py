"""`atoll invite` and `atoll join`: a token on one machine, a new node on another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli import flags
from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from pathlib import Path

    from atoll.identity.token import Token


def invite(
    name: Annotated[str | None, typer.Option(help="Name that the new node must take.")] = None,
    region: Annotated[str | None, typer.Option(help="Region that it must take.")] = None,
    tier: Annotated[str | None, typer.Option(help="Tier that it must take: edge, hub or cloud.")] = None,
    expires: Annotated[str, typer.Option(metavar="TIME", help="How long the token serves.")] = "1h",
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST:PORT,...", help="Addresses to dial, if not this node's own.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Print a token that lets one new node join, once."""
    import asyncio
    import time

    from atoll.domain.errors import ConfigError
    from atoll.identity import token
    from atoll.node import config
    from atoll.node.mesh import admission, membership

    found = find_home(home)
    settings = config.load_settings({"advertise": advertise}, os.environ, found.config)
    if not membership.may_admit(found):
        raise ConfigError(
            "no-authority",
            "cannot invite here: this node does not hold the authority's key",
            hint="Run it on the node that founded the atoll.",
        )
    for key, value in (("name", name), ("region", region), ("tier", tier)):
        if value is not None:
            flags.check(key, value)
    lasts = flags.duration("expires", expires)
    addresses = [str(address) for address in settings.told_addresses]
    made = asyncio.run(
        admission.invite(
            running_postgres(found),
            admission.load_authority(found.keys),
            addresses=addresses,
            expires_at=int(time.time() + lasts),
            name=name,
            region=region,
            tier=tier,
        )
    )
    if all(address.startswith(("127.", "localhost:", "[::1]:")) for address in addresses):
        typer.echo("note: this node's link listens on this machine only; others cannot reach it.", err=True)
        typer.echo("      Start it with --link 0.0.0.0:7600 --advertise HOST:7600 for that.", err=True)
    typer.echo(token.encode(made))


def join(
    token: Annotated[str, typer.Argument(help="What `atoll invite` printed.")],
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
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
) -> None:
    """Make a home for a new node and let it into an atoll. `atoll up` then runs it."""
    given = flags.given(locals())
    import asyncio
    import time

    from atoll.identity import token as tokens
    from atoll.node.account import server_account
    from atoll.node.home import check_free, choose_home, is_home

    invitation = tokens.decode(token, now=time.time())
    for key in ("name", "region", "tier"):
        preset = getattr(invitation, key)
        if preset is not None:
            given[key] = preset
    choice = choose_home(home, os.environ, server_account())
    if choice.note:
        typer.echo(choice.note)
    if is_home(choice.path):
        _refuse_home(choice.path)
    check_free(choice.path)
    joined = asyncio.run(_join(choice.path, invitation, given))
    typer.echo(f'joined as node "{joined["name"]}", number {joined["number"]}, in {choice.path}')
    typer.echo(f"run it:  atoll up{'' if home is None else f' --home {home}'}")


async def _join(path: Path, invitation: Token, given: dict[str, Any]) -> dict[str, Any]:
    """Redeem first, then make the home: a refusal leaves nothing behind."""
    from atoll import __version__
    from atoll.identity import certificate
    from atoll.link import join as joining
    from atoll.link.settings import LinkSettings
    from atoll.node import config
    from atoll.node.mesh import membership
    from atoll.node.opening import opened

    settings = config.load_settings(given, os.environ, path / "atoll.toml")
    key = certificate.make_key()
    wishes = {
        "name": settings.name,
        "region": settings.region,
        "tier": settings.tier,
        "addresses": [str(address) for address in settings.told_addresses],
    }
    joined = await joining.join(invitation, key, wishes=wishes, release=__version__, settings=LinkSettings())
    with opened(path, {**given, "name": joined["name"]}, os.environ) as made:
        membership.settle(made.home, key_pem=key, joined=joined)
    return joined


def _refuse_home(path: Path) -> None:
    from atoll.domain.errors import ConfigError

    raise ConfigError(
        "home-in-use",
        f"cannot join with the home {path}: it belongs to a node already",
        detail="A home belongs to one membership, also after its node has left or was revoked.",
        hint="Join with a new one (--home DIR), and load what the old one has: docs/howto/existing-data.md.",
    )
