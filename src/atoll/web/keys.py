"""Keys of programs that ask models: whether one is needed, and whether the one that came is good.

On loopback none is needed unless a setting says so; but then a browser must not be talked into asking: a
request that comes from a page of another place, or under a name that is not this machine's, is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.requests import Request

from atoll.domain.errors import PolicyDenied
from atoll.web.fields import fields

LOOPBACK = ("127.0.0.1", "::1", "localhost")
APP = "role app"  # who shows that role's password; no key can be called so
HOSTS_KEPT_MAX = 64
Hashes = Callable[[], Mapping[str, str]]


class Keys:
    def __init__(self, hashes: Hashes, is_needed: bool) -> None:
        """`hashes`: the hash of every good key, and what it is called."""
        self._hashes = hashes
        self._is_needed = is_needed

    def check(self, request: Request) -> str | None:
        """Who asks, as far as a key says so."""
        key, hashes = _key_of(request), self._hashes()
        if key and hashes:
            name = hashes.get(hash_key(key))
            if name is not None:
                return name
        if self._is_needed:
            raise PolicyDenied(
                "key-wrong",
                "the API key is wrong" if key else "an API key is needed",
                hint="Make one with: atoll key add NAME; send it as Authorization: Bearer KEY.",
            )
        _check_origin(request)
        return None


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _key_of(request: Request) -> str:
    told = fields(request)
    scheme, _, given = told.get("authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else told.get("x-api-key", "")


def _check_origin(request: Request) -> None:
    told = fields(request)
    foreign = _foreign(told.get("host", ""), told.get("origin"))
    if foreign is not None:
        raise PolicyDenied(
            "origin-foreign",
            f'without a key, requests may not come from "{foreign}"',
            detail="A page in a browser could otherwise ask the models of this machine.",
            hint="Send an API key: atoll key add NAME",
        )


@lru_cache(HOSTS_KEPT_MAX)
def _foreign(host: str, origin: str | None) -> str | None:
    """Which of them is not this machine."""
    if _host_of(f"//{host}") not in LOOPBACK:
        return host
    return origin if origin is not None and _host_of(origin) not in LOOPBACK else None


def _host_of(place: str) -> str | None:
    try:
        return urlsplit(place).hostname
    except ValueError:
        return None
