"""The settings of a node: one table, read from flags, then ATOLL_* variables, then atoll.toml, then defaults.

The table OPTIONS is the only place that names a setting; flags, variables, the commented atoll.toml of a new
home and the documentation are all made from it. Nothing here touches the network or the database.
"""

from __future__ import annotations

import difflib
import re
import socket
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.node import values
from atoll.node.values import Address


@dataclass(frozen=True)
class Settings:
    name: str
    region: str
    tier: str
    http: Address | None
    link: Address | None
    advertise: tuple[Address, ...]
    dial: Mapping[str, Address]
    postgres: int
    listen_postgres: Address | None
    database: str
    gateway: Address
    gateway_advertise: Address | None
    questions: str
    questions_database: str
    wal_keep: int
    link_compression: str
    link_rate: int | None
    receipts: float | None
    repair: str
    future_bound: float
    disk_floor: int
    models: str
    models_memory: int
    keys: str
    log_level: str
    log_format: str

    @property
    def told_addresses(self) -> tuple[Address, ...]:
        """The addresses at which peers are told to dial this node."""
        if self.advertise or self.link is None or self.link.is_wildcard:
            return self.advertise
        return (self.link,)


@dataclass(frozen=True)
class Option:
    """One setting: its key in atoll.toml, its default as text, how it is read, and what it is for."""

    key: str
    default: str
    read: Callable[[object], Any]
    help: str

    @property
    def variable(self) -> str:
        return f"ATOLL_{self.key.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.key.replace('_', '-')}"


_NAME = values.pattern(
    "[a-z][a-z0-9-]{0,31}", "a small letter, then up to 31 small letters, digits or hyphens"
)
_REGION = values.pattern(
    "[a-z][a-z0-9-]{0,63}", "a small letter, then up to 63 small letters, digits or hyphens"
)

OPTIONS: tuple[Option, ...] = (
    Option("name", "", _NAME, "Name of the node, unique in its atoll; the machine's name if not given."),
    Option("region", "local", _REGION, "Region of the node, a label that the other nodes see."),
    Option("tier", "edge", values.one_of("edge", "hub", "cloud"), "Tier of the node: edge, hub or cloud."),
    Option("http", "127.0.0.1:8600", values.address_or_off, "Where HTTP listens, or off."),
    Option("link", "127.0.0.1:7600", values.address_or_off, "Where peers connect, or off to dial out only."),
    Option(
        "advertise", "", values.addresses, "Addresses that peers are told to dial; the link's if not given."
    ),
    Option("dial", "", values.dial_table, "Other addresses for single peers, as NAME=HOST:PORT."),
    Option("postgres", "18", values.major, "Major version of the bundled PostgreSQL: 16 or 18."),
    Option("listen_postgres", "off", values.address_or_off, "TCP address for PostgreSQL clients, or off."),
    Option("database", "", values.text, "Address of a PostgreSQL of your own, to use that instead."),
    Option("gateway", "127.0.0.1:7700", values.address, "Where your own PostgreSQL finds this node."),
    Option("gateway_advertise", "off", values.address_or_off, "What it is told to dial, if that is another."),
    Option(
        "questions",
        "scoped",
        values.one_of("on", "scoped", "off"),
        "What is answered to other nodes' questions.",
    ),
    Option("questions_database", "", values.text, "How questions log in to a PostgreSQL of your own."),
    Option("wal_keep", "1GB", values.size, "WAL kept at most for a peer that is away."),
    Option("link_compression", "auto", values.one_of("auto", "on", "off"), "Compression between nodes."),
    Option("link_rate", "off", values.size_or_off, "Bytes a second sent on each link at most, or off."),
    Option("receipts", "2%", values.share_or_off, "Share of a core for comparing with peers, or off."),
    Option("repair", "auto", values.one_of("auto", "off"), "Whether rows that differ are mended unasked."),
    Option("future_bound", "5min", values.duration, "Changes stamped further ahead than this are parked."),
    Option("disk_floor", "256MB", values.size, "Below this much free disk the node accepts no writes."),
    Option("models", "on", values.one_of("on", "off"), "Whether models run on this node."),
    Option("models_memory", "50%", values.memory, "Memory that models may take: a size or a share."),
    Option(
        "keys",
        "auto",
        values.one_of("auto", "on", "off"),
        "Whether asking models needs an API key; auto: not where HTTP is on loopback.",
    ),
    Option("log_level", "info", values.one_of("debug", "info", "warning", "error"), "What is logged."),
    Option("log_format", "text", values.one_of("text", "json"), "How the log looks on standard error."),
)
BY_KEY: Mapping[str, Option] = {option.key: option for option in OPTIONS}


def load_settings(
    flags: Mapping[str, object], environment: Mapping[str, str], file: Path, hostname: str | None = None
) -> Settings:
    """The settings in force. A flag that is None was not given."""
    from_file = read_file(file)
    found: dict[str, Any] = {}
    for option in OPTIONS:
        value, source = _first_given(option, flags, environment, from_file, file)
        if option.key == "name" and not value:
            value = name_from_host(hostname or socket.gethostname())
        found[option.key] = _read(option, value, source)
    return Settings(**found)


def given_settings(flags: Mapping[str, object], environment: Mapping[str, str]) -> dict[str, object]:
    """What a user gave by flag or variable: a new home remembers it."""
    given = {option.key: environment[option.variable] for option in OPTIONS if option.variable in environment}
    return {**given, **{key: value for key, value in flags.items() if value is not None and key in BY_KEY}}


def read_file(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError("config-unreadable", f"could not read {file}", detail=f"{error}.") from error
    for key in table:
        if key not in BY_KEY:
            near = difflib.get_close_matches(key, BY_KEY, n=1, cutoff=0)
            raise ConfigError(
                "config-unknown-key",
                f'unknown setting "{key}" in {file}',
                hint=f'The nearest one is "{near[0]}".' if near else None,
            )
    return table


def new_file(given: Mapping[str, object]) -> str:
    """The text of atoll.toml in a new home: what was given, and everything else as a comment."""
    lines = ["# Settings of this node. A flag wins over an ATOLL_* variable, which wins over this file.", ""]
    for option in sorted(OPTIONS, key=lambda option: option.key == "dial"):
        lines.append(f"# {option.help}")
        if option.key == "dial":
            table = values.dial_table(given.get("dial", ""))
            lines += ["[dial]" if table else "# [dial]"]
            lines += [f'"{name}" = "{target}"' for name, target in table.items()]
        elif option.key in given:
            lines.append(f"{option.key} = {_toml(given[option.key])}")
        else:
            lines.append(f'# {option.key} = "{option.default}"')
        lines.append("")
    return "\n".join(lines)


def name_from_host(hostname: str) -> str:
    """A node name made from a machine's name."""
    name = re.sub(r"[^a-z0-9-]+", "-", hostname.split(".")[0].lower()).strip("-")
    name = name if name[:1].isalpha() else f"node-{name}".rstrip("-")
    return name[:32].rstrip("-")


def _first_given(
    option: Option,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    from_file: Mapping[str, Any],
    file: Path,
) -> tuple[object, str]:
    if flags.get(option.key) is not None:
        return flags[option.key], option.flag
    if option.variable in environment:
        return environment[option.variable], f"${option.variable}"
    if option.key in from_file:
        return from_file[option.key], str(file)
    return option.default, "the default"


def _read(option: Option, value: object, source: str) -> Any:
    try:
        return option.read(value)
    except ValueError as error:
        raise ConfigError(
            "config-invalid",
            f'invalid {option.key} "{value}" from {source}',
            detail=f"{str(error)[0].upper()}{str(error)[1:]}.",
            hint=option.help,
        ) from error


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(part) for part in value) + "]"
    if isinstance(value, int | float):
        return str(value)
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
