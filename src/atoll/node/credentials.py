"""The password of the application's role, kept in the home for its owner's eyes only."""

from __future__ import annotations

import json
import secrets
from typing import Any
from urllib.parse import quote

from atoll.domain.errors import ConfigError
from atoll.node.home import Home, write_file
from atoll.node.postgres.conf import APP_ROLE, DATABASE, DEFAULT_PORT, OWNER

PASSWORD_BYTES = 18


def password(home: Home) -> str:
    """The application's password, made at the first asking."""
    try:
        found: dict[str, Any] = json.loads(home.credentials.read_text())
        return str(found[APP_ROLE])
    except FileNotFoundError:
        made = secrets.token_urlsafe(PASSWORD_BYTES)
        write_file(home.credentials, json.dumps({APP_ROLE: made}) + "\n")
        return made
    except PermissionError:
        raise ConfigError(
            "home-not-yours", f"cannot read {home.credentials}", hint="Run the command as the node's user."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            "credentials-damaged",
            f"cannot understand {home.credentials}",
            hint="Remove the file; the next `atoll up` makes a new password.",
        ) from error


def dsn(home: Home, port: int = DEFAULT_PORT, is_admin: bool = False) -> str:
    """The address that applications connect with; the owner's has no password, the kernel says who asks."""
    who = OWNER if is_admin else f"{APP_ROLE}:{quote(password(home), safe='')}"
    where = f"host={quote(str(home.run), safe='')}" + (f"&port={port}" if port != DEFAULT_PORT else "")
    return f"postgresql://{who}@/{DATABASE}?{where}"
