"""Joining an atoll: the new node's side, and what a listening node tells somebody without a certificate.

The new node trusts nobody but the fingerprint in its token: it fetches the authority unverified, compares,
and connects again verified before it shows its secret. Who may join is decided by `Invitations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from atoll.domain.errors import AtollError, LinkError, PolicyDenied
from atoll.identity.authority import fingerprint
from atoll.identity.certificate import make_request
from atoll.identity.token import Token, hash_secret
from atoll.link.dial import Expected, dial
from atoll.link.greeting import Hello, Purpose
from atoll.link.settings import LinkSettings
from atoll.link.tls import make_stranger_context

WISHES = ("name", "region", "tier", "addresses", "returns")


class Invitations(Protocol):
    """Kept by the node that holds the authority's key."""

    async def redeem(
        self, invitation: str, secret_sha256: str, csr_pem: str, wishes: dict[str, Any]
    ) -> dict[str, Any]:
        """Use the invitation up: {certificate, number, name, peers, ...}; PolicyDenied `token-used`,
        `token-expired` or `token-unknown` otherwise. `authority` is added to the answer."""
        ...

    async def renumber(self, wish: dict[str, Any]) -> str:
        """A certificate for a member that has taken another number; PolicyDenied if it may not."""
        ...


async def answer_stranger(
    purpose: Purpose, message: dict[str, Any], authority_pem: str, invitations: Invitations | None
) -> dict[str, Any]:
    if purpose is Purpose.AUTHORITY:
        return {"authority": authority_pem}
    if invitations is None:
        raise no_authority()
    texts = [message.get(key) for key in ("invitation", "secret", "csr")]
    wishes = message.get("wishes")
    if not all(isinstance(text, str) and text for text in texts) or not isinstance(wishes, dict):
        raise PolicyDenied("join-invalid", "the request to join is incomplete")
    invitation, secret, csr = (str(text) for text in texts)
    wishes = {key: wishes[key] for key in WISHES if key in wishes}
    admitted = await invitations.redeem(invitation, hash_secret(secret), csr, wishes)
    return {"joined": admitted | {"authority": authority_pem}}


def no_authority() -> PolicyDenied:
    return PolicyDenied(
        "no-authority",
        "this node cannot admit nodes: it does not hold the authority's key",
        hint="Ask a node that does for a token.",
    )


async def join(
    token: Token,
    key_pem: str,
    *,
    wishes: dict[str, Any],
    release: str,
    settings: LinkSettings,
    addresses: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Redeem the token at the first address that answers; returns what `Invitations.redeem` admitted us with.

    A secret is shown to nobody but a node of the token's atoll. A refusal ends it; only an address that
    cannot be reached makes way for the next.
    """
    failure: AtollError = LinkError("no-address", "the token names no address to dial")
    for address in addresses or token.addresses:
        try:
            authority_pem = await _fetch_authority(address, token, release, settings)
        except LinkError as error:
            failure = error
            continue
        return await _redeem(address, authority_pem, token, key_pem, wishes, release, settings)
    raise failure


async def _fetch_authority(address: str, token: Token, release: str, settings: LinkSettings) -> str:
    hello = Hello(Purpose.AUTHORITY, release, "")
    framed, _, answer = await dial(address, make_stranger_context(None), settings, hello, None, set())
    framed.close()
    authority_pem = answer.get("authority")
    if not isinstance(authority_pem, str) or fingerprint(authority_pem) != token.fingerprint:
        raise PolicyDenied(
            "wrong-authority",
            f"the node at {address} has another authority than the token names",
            detail="Either the address now belongs to another atoll, or somebody sits in between.",
            hint="Check the address and ask for a new token.",
        )
    return authority_pem


async def _redeem(
    address: str,
    authority_pem: str,
    token: Token,
    key_pem: str,
    wishes: dict[str, Any],
    release: str,
    settings: LinkSettings,
) -> dict[str, Any]:
    presets = {"name": token.name, "region": token.region, "tier": token.tier}
    wishes = wishes | {key: value for key, value in presets.items() if value is not None}
    request = Hello(Purpose.JOIN, release, "").as_message() | {
        "invitation": token.invitation,
        "secret": token.secret,
        "csr": make_request(key_pem, str(wishes.get("name") or "node")),
        "wishes": wishes,
    }
    context = make_stranger_context(authority_pem)
    framed, _, answer = await dial(address, context, settings, request, Expected(token.atoll_id), set())
    framed.close()
    joined = answer.get("joined")
    if not isinstance(joined, dict) or not isinstance(joined.get("certificate"), str):
        raise LinkError("protocol", f"the node at {address} gave no certificate")
    return joined
