"""Models of somebody else's server: its address as people write it, and the manifest, which has no files.

Whether the server is there is tried elsewhere; its key is in no manifest.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection, Iterable
from urllib.parse import urlsplit

from atoll.domain.errors import ConfigError, LinkError
from atoll.domain.models import Skill
from atoll.registry.manifest import REGION, Kind, Manifest, Upstream, check_name, name_from

PREFIX = "upstream:"
LENGTH_MAX = 500
API = "/v1"


def read_address(source: str) -> str:
    """The address up to, not including, /v1. Nothing that is a secret may be in it: it becomes a row."""
    url = source.removeprefix(PREFIX).rstrip("/")
    try:
        found = urlsplit(url)
        port = f":{found.port}" if found.port else ""
    except ValueError:
        raise _bad(url, "Its port is no number.") from None
    if found.scheme not in ("http", "https") or not found.hostname:
        raise _bad(url, "It does not begin with https:// or http:// and a host.")
    if "@" in found.netloc or found.query or found.fragment:
        raise _bad(url, "It may have no user, no password and nothing after a question mark.")
    if not found.path.endswith(API) or len(url) > LENGTH_MAX or not re.fullmatch(r"[!-~]+", url):
        raise _bad(url, f"It does not end in {API}.")
    host = f"[{found.hostname}]" if ":" in found.hostname else found.hostname
    return f"{found.scheme}://{host}{port}{found.path.removesuffix(API)}"


def check_private(base: str, addresses_of: Callable[[str], Iterable[str]] | None = None) -> None:
    """Refuse to send questions and a key in the clear to where strangers can read them."""
    found = urlsplit(base)
    if found.scheme == "https":
        return
    host = found.hostname or ""
    try:
        addresses = list((addresses_of or _addresses_of)(host))
    except OSError as error:
        raise LinkError("upstream-away", f'could not find the host "{host}"', detail=f"{error}.") from error
    for address in addresses:
        if not ipaddress.ip_address(address.partition("%")[0]).is_private:
            raise ConfigError(
                "upstream-address",
                f'cannot ask "{base}": it is neither encrypted nor in a private network',
                hint="Use https://, or say --insecure.",
            )


def upstream_manifest(
    base: str,
    model: str,
    *,
    name: str | None,
    skills: Collection[Skill],
    needs_key: bool,
    region: str | None = None,
    price: tuple[float, float] | None = None,
) -> Manifest:
    if region is not None and not REGION.fullmatch(region):
        raise ConfigError(
            "upstream-address",
            f'cannot use region "{region}"',
            hint="A region is a small letter, then up to 63 small letters, digits or hyphens.",
        )
    return Manifest(
        name=check_name(name or name_from(model)),
        kind=Kind.UPSTREAM,
        variants=(),
        skills=tuple(sorted(skills)),
        upstream=Upstream(base, model, needs_key, region, price),
        source=f"{PREFIX}{base}{API}",
    )


def _addresses_of(host: str) -> list[str]:
    return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


def _bad(url: str, detail: str) -> ConfigError:
    # What is wrong may be that it holds a password.
    shown = re.sub(r"//.*@", "//…@", url[:LENGTH_MAX])
    return ConfigError(
        "upstream-address",
        f'cannot ask "{shown}"',
        detail=detail,
        hint="Write it as upstream:https://HOST/v1.",
    )
