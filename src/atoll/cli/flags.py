"""The flags that `atoll up` and `atoll join` share: each overrides a setting of the same name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

Name = Annotated[str | None, typer.Option(help="Name of the node, unique in its atoll.")]
Region = Annotated[str | None, typer.Option(help="Region of the node.")]
Tier = Annotated[str | None, typer.Option(help="edge, hub or cloud.")]
Http = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where HTTP listens, or off.")]
Link = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where peers connect, or off.")]
Advertise = Annotated[
    str | None, typer.Option(metavar="HOST:PORT,...", help="Addresses that peers are told to dial.")
]
Dial = Annotated[
    str | None, typer.Option(metavar="NAME=HOST:PORT,...", help="Other addresses for single peers.")
]
PostgresMajor = Annotated[str | None, typer.Option(metavar="16|18", help="Major version of PostgreSQL.")]
ListenPostgres = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="TCP address for PostgreSQL clients.")
]
Database = Annotated[
    str | None, typer.Option(metavar="DSN", help="A PostgreSQL of your own, instead of the bundled one.")
]
Gateway = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Where your own PostgreSQL finds this node.")
]
GatewayAdvertise = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="What it is told to dial, if that is another.")
]
Questions = Annotated[str | None, typer.Option(help="What is answered to other nodes: on, scoped or off.")]
QuestionsDatabase = Annotated[
    str | None, typer.Option(metavar="DSN", help="How questions log in to a PostgreSQL of your own.")
]
WalKeep = Annotated[str | None, typer.Option(metavar="SIZE", help="WAL kept for an absent peer.")]
LinkCompression = Annotated[str | None, typer.Option(help="auto, on or off.")]
LinkRate = Annotated[str | None, typer.Option(metavar="SIZE", help="Bytes a second on each link.")]
Receipts = Annotated[
    str | None, typer.Option(metavar="SHARE", help="Share of a core for comparing with peers, or off.")
]
Repair = Annotated[str | None, typer.Option(help="Whether rows that differ are mended unasked: auto or off.")]
FutureBound = Annotated[
    str | None, typer.Option(metavar="TIME", help="Changes stamped further ahead are parked.")
]
DiskFloor = Annotated[str | None, typer.Option(metavar="SIZE", help="Below this much free disk, no writes.")]
Models = Annotated[str | None, typer.Option(help="Whether models run on this node: on or off.")]
ModelsMemory = Annotated[
    str | None, typer.Option(metavar="SIZE", help="Memory that models may take: a size, or a share.")
]
KeysFlag = Annotated[str | None, typer.Option(help="Whether models need an API key: auto, on or off.")]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, typer.Option(help="text or json.")]


def given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a command's arguments."""
    from atoll.node.config import BY_KEY

    return {key: value for key, value in arguments.items() if key in BY_KEY}


def check(key: str, value: str) -> None:
    """Refuse a value that the setting of this name would refuse."""
    from atoll.domain.errors import ConfigError
    from atoll.node.config import BY_KEY

    try:
        BY_KEY[key].read(value)
    except ValueError as error:
        raise ConfigError(
            "config-invalid", f'invalid {key} "{value}"', detail=f"{error}.".capitalize()
        ) from error


def duration(key: str, text: str) -> float:
    """Seconds, from a text such as 90s, 15min or 7d."""
    from atoll.domain.errors import ConfigError
    from atoll.node import values

    try:
        seconds = values.duration(text)
    except ValueError as error:
        raise ConfigError(
            "config-invalid", f'invalid {key} "{text}"', detail=f"{error}.".capitalize()
        ) from error
    if seconds <= 0:
        raise ConfigError(
            "config-invalid", f'invalid {key} "{text}"', detail="It has to be longer than nothing."
        )
    return seconds
