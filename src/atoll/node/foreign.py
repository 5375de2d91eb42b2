"""The PostgreSQL of somebody else that a node's settings name, and the secrets that its home has for it."""

from __future__ import annotations

import json
import secrets

from atoll.domain.errors import ConfigError
from atoll.node.config import Settings
from atoll.node.home import Home, write_file
from atoll.node.postgres.foreign import DoorAddress, ForeignPostgres, parse

PASSWORD_BYTES = 24
SECRETS = "secrets.json"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def foreign_server(home: Home, settings: Settings) -> ForeignPostgres:
    """The server that the setting `database` names, with the secrets that this home has for it."""
    parse(settings.database)
    known = _secrets(home)
    told = settings.gateway_advertise or settings.gateway
    if told.is_wildcard:
        raise ConfigError(
            "gateway-nowhere",
            f"cannot tell PostgreSQL to dial {told}",
            detail="It stands for every address of this machine.",
            hint="Say with --gateway-advertise HOST:PORT where the server finds this node.",
        )
    is_here = told.host in LOOPBACK and settings.gateway.host in LOOPBACK
    door = DoorAddress(told, known["door"], has_tls=not is_here)
    return ForeignPostgres(settings.database, home.run, door, known["link"])


def _secrets(home: Home) -> dict[str, str]:
    """The passwords of the door and of the link's role, made at the first asking."""
    file = home.keys / SECRETS
    try:
        found: dict[str, str] = json.loads(file.read_text())
        return {"door": found["door"], "link": found["link"]}
    except FileNotFoundError:
        made = {name: secrets.token_urlsafe(PASSWORD_BYTES) for name in ("door", "link")}
        write_file(file, json.dumps(made) + "\n")
        return made
    except (ValueError, KeyError, TypeError, PermissionError) as error:
        raise ConfigError(
            "secrets-unreadable",
            f"cannot read {file}",
            hint="Run the command as the node's user; where the file is damaged, remove it and start again.",
        ) from error
