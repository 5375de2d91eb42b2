"""Ports of the loopback that stay ours: for nodes that are told their address before they listen."""

from __future__ import annotations

import contextlib
import random
import socket

from atoll.domain.errors import ConfigError

# Below the ports that the system hands out to connections, so that none of those takes one of ours.
PORTS = range(20_000, 32_000)
PORTS_TRIED = 200


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and that no other process gets here while this one lives."""
    found: list[int] = []
    for port in random.sample(PORTS, PORTS_TRIED):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            _claim(port)
            found.append(port)
        if len(found) == count:
            return found
    raise ConfigError(
        "no-free-ports",
        f"could not find {count} free ports on 127.0.0.1",
        detail=f"{PORTS_TRIED} ports between {PORTS[0]} and {PORTS[-1]} were tried.",
    )


def _claim(port: int) -> None:
    """A name that only one process of this machine can hold, and that goes when it ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        claim.bind(f"\0atoll-port-{port}")
        # Nobody closes what is left of it: the system does, at the end.
        claim.detach()
