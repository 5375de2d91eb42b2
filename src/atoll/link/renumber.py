"""A node that took another number asks for its certificate; it proves itself with the old one and its key.

The request stands for itself: a certificate of the atoll, and a request signed by the same key. So it needs
no link, which the old number may have elsewhere. Who may have which number is decided by `Invitations`.
"""

from __future__ import annotations

from typing import Any

from atoll.domain.errors import LinkError
from atoll.identity.certificate import Identity
from atoll.link.dial import Expected, dial
from atoll.link.greeting import Hello, Purpose
from atoll.link.settings import LinkSettings
from atoll.link.tls import make_stranger_context


async def ask(
    address: str, identity: Identity, wish: dict[str, Any], *, release: str, settings: LinkSettings
) -> str:
    """The certificate (PEM) that the node at this address gives for `wish`."""
    request = Hello(Purpose.RENUMBER, release, "").as_message() | {"wish": wish}
    context = make_stranger_context(identity.authority_pem)
    expected = Expected(identity.me.atoll_id)
    framed, _, answer = await dial(address, context, settings, request, expected, set())
    framed.close()
    issued = answer.get("certificate")
    if not isinstance(issued, str):
        raise LinkError("protocol", f"the node at {address} gave no certificate")
    return issued
