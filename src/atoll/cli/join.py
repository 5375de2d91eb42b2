"""`atoll invite` and `atoll join`: a token on one machine, a new node on another."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atoll.cli import flags
from atoll.cli.home import HomeOption, find_home, running_postgres

if TYPE_CHECKING:
    from pathlib import Path

    from atoll.identity.certificate import Identity
    from atoll.identity.token import Token
    from atoll.node.config import Settings
    from atoll.node.home import Home
    from atoll.node.postgres.server import Postgres

MOVE_SECONDS_MAX = 600.0
POLL_SECONDS = 0.3


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
    models: flags.Models = None,
    models_memory: flags.ModelsMemory = None,
    keys: flags.KeysFlag = None,
    log_level: flags.LogLevel = None,
    log_format: flags.LogFormat = None,
    with_data: Annotated[
        bool,
        typer.Option("--with-data", help="Move the running node of a home: its data is merged with theirs."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make a home for a new node and let it into an atoll. `atoll up` then runs it."""
    given = flags.given(locals())
    import asyncio
    import time

    from atoll.identity import token as tokens
    from atoll.node.account import server_account
    from atoll.node.home import check_free, choose_home, is_home

    invitation = tokens.decode(token, now=time.time())
    if with_data:
        _refuse_settings(given)
        _bring(find_home(home), invitation, is_sure=yes)
        return
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
    from atoll.identity import certificate
    from atoll.node import config
    from atoll.node.mesh import membership
    from atoll.node.opening import opened

    settings = config.load_settings(given, os.environ, path / "atoll.toml")
    key = certificate.make_key()
    joined = await _redeem(invitation, key, _wishes(settings))
    with opened(path, {**given, "name": joined["name"]}, os.environ) as made:
        membership.settle(made.home.keys, key_pem=key, joined=joined)
    return joined


def _wishes(settings: Settings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "region": settings.region,
        "tier": settings.tier,
        "addresses": [str(address) for address in settings.told_addresses],
    }


async def _redeem(invitation: Token, key: str, wishes: dict[str, Any]) -> dict[str, Any]:
    from atoll import __version__
    from atoll.link import join as joining
    from atoll.link.settings import LinkSettings

    return await joining.join(invitation, key, wishes=wishes, release=__version__, settings=LinkSettings())


# A home that is in use


def _bring(home: Home, invitation: Token, *, is_sure: bool) -> None:
    """Move the running node of a home into the token's atoll, with its data."""
    import asyncio

    from atoll.cli.rows import fetch
    from atoll.identity import certificate
    from atoll.node import config
    from atoll.node.mesh import moving

    postgres = running_postgres(home)
    settings = config.load_settings({}, os.environ, home.config)
    (standing,) = fetch(postgres, "moving", "standing")
    is_back = standing["atoll_id"] == invitation.atoll_id
    _check_movable(home, invitation, settings, standing, is_back=is_back)
    if is_back:
        typer.echo("what the others do not have yet of this node's data is kept; the rest they give anew")
    else:
        typer.echo(f"these tables come along, merged row by row: {', '.join(standing['tables']) or 'none'}")
    if not is_sure:
        typer.confirm(f'Move node "{standing["name"]}" into the atoll of the token?', abort=True)
    key = certificate.make_key()
    joined = asyncio.run(_redeem(invitation, key, _wishes(settings) | {"returns": is_back}))
    identity = moving.ask(home, key_pem=key, joined=joined)
    _wait_until(postgres, identity)
    typer.echo(f'joined as node "{joined["name"]}", number {joined["number"]}')
    typer.echo("see how far it is:  atoll status")


def _refuse_settings(given: dict[str, Any]) -> None:
    from atoll.domain.errors import ConfigError

    for key, value in given.items():
        if value is not None:
            raise ConfigError(
                "join-settings",
                f"cannot change {key} while a node moves",
                hint="Change the setting in its atoll.toml, before or after.",
            )


def _check_movable(
    home: Home, invitation: Token, settings: Settings, standing: dict[str, Any], *, is_back: bool
) -> None:
    from atoll.domain.errors import ConfigError, PolicyDenied
    from atoll.node.mesh import moving

    if moving.is_asked(home):
        raise ConfigError(
            "join-under-way", "this node is moving into an atoll already", hint="See how far: atoll logs"
        )
    if not is_back and standing["members"] and not standing["has_left"]:
        raise PolicyDenied(
            "join-member",
            f'cannot join: node "{standing["name"]}" is a member of another atoll',
            detail=f"It has {standing['members']} other members.",
            hint="Leave it first: atoll leave",
        )
    for key in ("name", "region", "tier"):
        wanted, has = getattr(invitation, key), getattr(settings, key)
        if wanted not in (None, has):
            raise ConfigError(
                "join-other",
                f'cannot join: the token is for {key} "{wanted}", and this node has "{has}"',
                hint="Ask for a token without it, or change the setting in atoll.toml (a name is for good).",
            )


def _wait_until(postgres: Postgres, identity: Identity) -> None:
    """Until the database is the new member's. The node goes on by itself if nobody waits."""
    import time

    from atoll.cli.rows import fetch
    from atoll.domain.errors import AtollError, LinkError

    deadline = time.monotonic() + MOVE_SECONDS_MAX
    while time.monotonic() < deadline:
        with contextlib.suppress(AtollError):
            (row,) = fetch(postgres, "nodes", "own_identity")
            if (row["atoll_id"], row["number"]) == (identity.me.atoll_id, identity.me.number):
                return
        time.sleep(POLL_SECONDS)
    raise LinkError(
        "join-slow", "the node has not moved yet", hint="It goes on, also after a restart. See: atoll logs"
    )


def _refuse_home(path: Path) -> None:
    from atoll.domain.errors import ConfigError

    raise ConfigError(
        "home-in-use",
        f"cannot join with the home {path}: it belongs to a node already",
        hint="Choose another one with --home DIR, or keep what it has: atoll join --with-data",
    )
