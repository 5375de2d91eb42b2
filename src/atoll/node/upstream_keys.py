"""Keys for models of other servers: in the home, for its owner's eyes only, and never a row.

Each is kept with the address that it is for: a manifest that names another one does not get it. In place of a
key there may be the name of a variable of the node's environment.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from atoll.domain.errors import ConfigError
from atoll.node.home import Home, write_file

KEY = re.compile(r"[!-~]{1,8192}")
MODELS_MAX = 1000


@dataclass(frozen=True)
class Secret:
    base: str
    key: str | None = field(default=None, repr=False)
    variable: str | None = None


def file_of(home: Home) -> Path:
    return home.path / "upstream_keys.json"


def given(
    base: str, file: Path | None, variable: str | None, environment: Mapping[str, str] = os.environ
) -> tuple[Secret | None, str | None]:
    """What is to be kept, and the key itself; nothing where there is none."""
    if file is not None:
        try:
            key = file.read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise ConfigError("upstream-key", f"cannot read a key from {file}", detail=f"{error}.") from None
        return Secret(base, key=_checked(key, f"in {file}")), key
    if variable is not None:
        key = environment.get(variable, "")
        if not key:
            raise ConfigError(
                "upstream-key",
                f"the variable {variable} is not set here",
                detail="It is needed once, to try the connection.",
                hint="Set it for this command, and for the node.",
            )
        return Secret(base, variable=variable), _checked(key, f"in {variable}")
    return None, None


def keep(home: Home, model: str, secret: Secret) -> None:
    found = _read(home)
    if len(found) >= MODELS_MAX and model not in found:
        raise ConfigError("upstream-key", f"there are {MODELS_MAX} keys already")
    _write(home, {**found, model: secret})


def forget(home: Home, model: str) -> None:
    found = _read(home)
    if found.pop(model, None) is not None:
        _write(home, found)


def key_for(home: Home, model: str, base: str, environment: Mapping[str, str] = os.environ) -> str:
    """The key that this node has for a model at an address."""
    secret = _read(home).get(model)
    if secret is None or secret.base != base:
        why = "has no key for it" if secret is None else f"has a key for {secret.base} only"
        raise ConfigError("upstream-key", f"this node {why}: atoll model key {model}")
    if secret.variable is None:
        return secret.key or ""
    if not environment.get(secret.variable):
        raise ConfigError(
            "upstream-key",
            f"the variable {secret.variable} was not set when this node was started",
            hint="Set it, and start the node again.",
        )
    return _checked(environment[secret.variable], f"in {secret.variable}")


def changed_at(home: Home) -> int | None:
    """When keys were last given or taken away."""
    try:
        return file_of(home).stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _checked(key: str, where: str) -> str:
    if not KEY.fullmatch(key):
        raise ConfigError("upstream-key", f"what is {where} is no key", hint="A key is one word of ASCII.")
    return key


def _read(home: Home) -> dict[str, Secret]:
    try:
        return {model: Secret(**told) for model, told in json.loads(file_of(home).read_text()).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            "credentials-damaged",
            f"cannot understand {file_of(home)}",
            hint="Remove the file, and give the keys again: atoll model key",
        ) from error


def _write(home: Home, secrets: Mapping[str, Secret]) -> None:
    told = {model: asdict(secret) for model, secret in secrets.items()}
    write_file(file_of(home), json.dumps(told, indent=1) + "\n")
