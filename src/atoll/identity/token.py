"""The invitation token: one line that lets one new node in, once, for a while.

It carries what the new node must know before it can trust anybody: which atoll, the fingerprint of its
authority, where to dial, and a secret. The issuing side keeps only the secret's hash, with the invitation.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from dataclasses import asdict, dataclass, fields, replace

from atoll.domain.errors import PolicyDenied

PREFIX = "atoll1_"
LENGTH_MAX = 8192
INVITE_HINT = "Ask for a new token: atoll invite, on any node that holds the authority."


@dataclass(frozen=True)
class Token:
    """What an invitation says. `expires_at` is in Unix seconds; the last three are presets, or None."""

    atoll_id: str
    fingerprint: str
    addresses: tuple[str, ...]
    invitation: str
    secret: str
    expires_at: int
    name: str | None = None
    region: str | None = None
    tier: str | None = None


def make_secret() -> str:
    """256 random bits, as text."""
    return secrets.token_urlsafe(32)


def hash_secret(secret: str) -> str:
    """What the issuing side stores and compares: the sha256, in hex."""
    return hashlib.sha256(secret.encode("utf-8")).hexdigest()


def encode(token: Token) -> str:
    """The token as one line."""
    content = {key: value for key, value in asdict(token).items() if value is not None}
    body = json.dumps(content, separators=(",", ":")).encode("utf-8")
    # The check catches a line that was cut off or mistyped; it protects nothing else.
    check = hashlib.sha256(body).digest()[:4]
    return PREFIX + base64.urlsafe_b64encode(check + body).rstrip(b"=").decode("ascii")


def decode(line: str, *, now: float) -> Token:
    """Read a token back, or say what is wrong with it."""
    line = "".join(line.split())
    if not line.startswith(PREFIX):
        if line.startswith("atoll") and "_" in line[:12]:
            raise PolicyDenied(
                "token-version",
                "cannot read the token: it was made by another version of Atoll",
                hint="Update the older of the two nodes, then ask for a new token.",
            )
        raise PolicyDenied(
            "token-invalid",
            "cannot read the token: this is not an invitation",
            detail=f"An invitation is one line that begins with {PREFIX}.",
            hint=INVITE_HINT,
        )
    token = _read_body(line[len(PREFIX) :])
    if token.expires_at <= now:
        raise PolicyDenied(
            "token-expired",
            "cannot use the token: it has expired",
            detail=f"It expired {int(now - token.expires_at)} seconds ago by this machine's clock.",
            hint=INVITE_HINT,
        )
    return token


def _read_body(text: str) -> Token:
    damaged = PolicyDenied(
        "token-damaged",
        "cannot read the token: it is incomplete or damaged",
        detail="A token is one line; part of it may have been lost while it was copied.",
        hint="Copy the whole line again.",
    )
    if len(text) > LENGTH_MAX:
        raise damaged
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise damaged from error
    check, body = raw[:4], raw[4:]
    if hashlib.sha256(body).digest()[:4] != check:
        raise damaged
    try:
        content = json.loads(body)
        known = {field.name for field in fields(Token)}
        token = Token(**{key: value for key, value in content.items() if key in known})
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise damaged from error
    if not _is_sound(token):
        raise damaged
    return replace(token, addresses=tuple(token.addresses))


def _is_sound(token: Token) -> bool:
    texts = (token.atoll_id, token.fingerprint, token.invitation, token.secret)
    presets = (token.name, token.region, token.tier)
    return (
        all(isinstance(text, str) and text for text in texts)
        and all(preset is None or isinstance(preset, str) for preset in presets)
        and isinstance(token.expires_at, int)
        and isinstance(token.addresses, (list, tuple))
        and all(isinstance(address, str) for address in token.addresses)
    )
