"""Admitting nodes: invitations are made, kept and redeemed where the authority's key is."""

from __future__ import annotations

import hmac
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from psycopg.types.json import Jsonb

from atoll.domain.errors import ConfigError, PolicyDenied
from atoll.identity import authority, certificate
from atoll.identity.authority import Authority
from atoll.identity.token import Token, hash_secret, make_secret
from atoll.node import config
from atoll.node.mesh import recall
from atoll.node.postgres.server import Postgres
from atoll.sql import query

ASK_AGAIN = "Ask for a new token: atoll invite."


async def invite(
    postgres: Postgres,
    issuer: Authority,
    *,
    addresses: Sequence[str],
    expires_at: int,
    name: str | None,
    region: str | None,
    tier: str | None,
) -> Token:
    """A new invitation. Only the hash of its secret is kept."""
    if not addresses:
        raise ConfigError(
            "no-address",
            "cannot invite: this node has no address that another can dial",
            hint="Run it with --link HOST:PORT, or name the address with --advertise HOST:PORT.",
        )
    secret, invitation = make_secret(), str(uuid.uuid4())
    wishes = {key: value for key, value in (("name", name), ("region", region), ("tier", tier)) if value}
    async with await postgres.connect() as connection:
        if name is not None:
            await _check_name_free(connection, name)
        await connection.execute(
            query("nodes", "add_invitation"), (invitation, hash_secret(secret), expires_at, Jsonb(wishes))
        )
    return Token(
        issuer.atoll_id,
        issuer.fingerprint,
        tuple(addresses),
        invitation,
        secret,
        expires_at,
        name,
        region,
        tier,
    )


class Admission:
    """Redeems invitations: the `Invitations` of the link's listener."""

    def __init__(self, postgres: Postgres, issuer: Authority) -> None:
        self._postgres = postgres
        self._issuer = issuer

    async def redeem(
        self, invitation: str, secret_sha256: str, csr_pem: str, wishes: dict[str, Any]
    ) -> dict[str, Any]:
        async with await self._postgres.connect() as connection, connection.transaction():
            await connection.execute(query("nodes", "lock_numbers"))
            promised = await self._promised(connection, invitation, secret_sha256)
            name, region, tier, addresses = _read_wishes({**wishes, **promised})
            await _check_name_free(connection, name, returns=bool(wishes.get("returns")))
            found = await (await connection.execute(query("nodes", "next_number"))).fetchone()
            number = int(found[0]) if found else 1
            certificate = self._issuer.issue(csr_pem, number=number, name=name, now=datetime.now(UTC))
            await connection.execute(query("nodes", "admit"), (number, name, region, tier, addresses))
            if wishes.get("returns"):
                await connection.execute(query("moving", "admit_back"), (number,))
            await connection.execute(query("nodes", "use_invitation"), (number, invitation))
            rows = await (await connection.execute(query("nodes", "all_nodes"))).fetchall()
        keys = ("number", "name", "region", "tier", "addresses")
        peers = [dict(zip(keys, row, strict=True)) for row in rows if row[0] != number]
        return {"certificate": certificate, "number": number, "name": name, "peers": peers}

    async def renumber(self, wish: dict[str, Any]) -> str:
        """A member that was restored has taken another number: the old one is not used any more.

        It may ask again when the answer was lost, also after others have heard of the new number.
        """
        pem, csr, number = str(wish.get("certificate")), str(wish.get("csr")), wish.get("number")
        held = certificate.verify_member(pem, self._issuer.pem)
        me = certificate.read_pem(pem)
        if authority.key_of_request(csr) != held.public_key() or not isinstance(number, int):
            raise PolicyDenied("csr-invalid", "the request is not signed by the key of the certificate")
        if not recall.TAKEN_MIN <= number <= recall.TAKEN_MAX:
            raise PolicyDenied("number-taken", f"the number {number} cannot be taken")
        async with await self._postgres.connect() as connection, connection.transaction():
            await connection.execute(query("nodes", "lock_numbers"))
            old = await (await connection.execute(query("recall", "row_of"), (me.number,))).fetchone()
            new = await (await connection.execute(query("recall", "row_of"), (number,))).fetchone()
            if new is not None and (new[0] != me.name or new[4]):
                raise PolicyDenied("number-taken", f"the number {number} has been given to another node")
            if old is None or (old[4] and new is None):
                raise PolicyDenied(
                    "revoked", f'node "{me.name}" (number {me.number}) has been revoked', hint=ASK_AGAIN
                )
            issued = self._issuer.issue(csr, number=number, name=me.name, now=datetime.now(UTC))
            addresses = [str(address) for address in wish.get("addresses", [])] or old[3]
            await connection.execute(
                query("recall", "know_again"), (number, me.name, old[1], old[2], addresses)
            )
        return issued

    async def _promised(self, connection: Any, invitation: str, secret_sha256: str) -> dict[str, Any]:
        try:
            wanted = uuid.UUID(invitation)
        except ValueError:
            raise PolicyDenied("token-unknown", "the token is not known here", hint=ASK_AGAIN) from None
        row = await (await connection.execute(query("nodes", "invitation"), (wanted,))).fetchone()
        if row is None or not hmac.compare_digest(row[0], secret_sha256):
            raise PolicyDenied("token-unknown", "the token is not known here", hint=ASK_AGAIN)
        if row[2]:
            raise PolicyDenied("token-used", "the token has been used", hint=ASK_AGAIN)
        if row[1]:
            raise PolicyDenied("token-expired", "the token has expired", hint=ASK_AGAIN)
        return dict(row[3])


def load_authority(keys: Any) -> Authority:
    return authority.load(keys)


def _read_wishes(wishes: dict[str, Any]) -> tuple[str, str, str, list[str]]:
    """What a new node wants to be, checked as settings are."""
    try:
        name = config.BY_KEY["name"].read(wishes.get("name"))
        region = config.BY_KEY["region"].read(wishes.get("region", "local"))
        tier = config.BY_KEY["tier"].read(wishes.get("tier", "edge"))
        addresses = [str(a) for a in config.BY_KEY["advertise"].read(list(wishes.get("addresses", [])))]
    except (ValueError, TypeError) as error:
        raise PolicyDenied("join-invalid", f"cannot admit the node: {error}") from error
    return name, region, tier, addresses


async def _check_name_free(connection: Any, name: str, *, returns: bool = False) -> None:
    row = await (await connection.execute(query("nodes", "name_taken"), (name,))).fetchone()
    if row and row[0] and returns:
        raise PolicyDenied(
            "join-member",
            f'cannot admit node "{name}" again: it is a member',
            hint=f"If it cannot take part any more, shut it out first: atoll revoke {name}",
        )
    if row and row[0]:
        raise PolicyDenied(
            "name-taken", f'cannot admit a node called "{name}": there is one', hint="Choose another name."
        )
