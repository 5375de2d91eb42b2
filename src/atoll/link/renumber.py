"""A node that took another number asks for its certificate; it proves itself with the old one and its key.

The request stands for itself: a certificate of the atoll, and a request signed by the same key. So it needs
no link, which the old number may have elsewhere, and others may pass it on to the authority. Who may have
which number is decided by `Invitations`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from atoll.domain.errors import AtollError, LinkError
from atoll.identity.certificate import Identity, PeerIdentity, read_pem
from atoll.link.dial import Expected, dial
from atoll.link.greeting import Hello, Purpose
from atoll.link.join import Invitations, no_authority
from atoll.link.settings import LinkSettings
from atoll.link.slot import Slot
from atoll.link.tls import make_stranger_context

METHOD = "identity.renumber"
HOPS_MAX = 3
REQUEST_SECONDS_MAX = 10.0


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


class Renumbering:
    """Answers such requests, or passes them on to whoever is nearer to the authority."""

    def __init__(
        self,
        slots: Mapping[int, Slot],
        invitations: Invitations | None,
        refuse_twin: Callable[[Slot, str], Awaitable[None]],
    ) -> None:
        self._slots = slots
        self._invitations = invitations
        self._refuse_twin = refuse_twin

    async def answer(self, wish: object, hops: int = 0, asker: int = 0) -> dict[str, Any]:
        """`{certificate}`; PolicyDenied `node-twice` where the old number is alive."""
        wish = wish if isinstance(wish, dict) else {}
        former = read_pem(str(wish.get("certificate", "")))
        if former.number in self._slots:
            await self._refuse_twin(self._slots[former.number], former.name)
        if self._invitations is not None:
            return {"certificate": await self._invitations.renumber(wish)}
        if hops < HOPS_MAX:
            for number, slot in sorted(self._slots.items()):
                if slot.control is not None and number not in (asker, former.number):
                    try:
                        payload = {"wish": wish, "hops": hops + 1}
                        return await slot.control.request(METHOD, payload, REQUEST_SECONDS_MAX)
                    except AtollError as error:
                        if error.code not in ("no-authority", "method-unknown") and not isinstance(
                            error, LinkError
                        ):
                            raise
        raise no_authority()

    async def passed_on(self, peer: PeerIdentity, payload: dict[str, Any]) -> dict[str, Any]:
        hops = payload.get("hops")
        return await self.answer(
            payload.get("wish"), hops if isinstance(hops, int) else HOPS_MAX, peer.number
        )
