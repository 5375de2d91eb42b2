"""Sockets bound before anything else starts, so that a port that is taken is said at once and by name."""

from __future__ import annotations

import errno
import socket

from atoll.domain.errors import ConfigError
from atoll.node.values import Address

BACKLOG = 128


def bind(address: Address, flag: str) -> socket.socket:
    """A listening TCP socket."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(
                "port-in-use",
                f"port {address.port} on {address.host} is in use",
                hint=f"Stop what listens there, or choose another address with {flag}.",
            ) from error
        raise ConfigError(
            "address-unusable",
            f"cannot listen on {address}",
            detail=f"{error.strerror or error}.",
            hint=f"Choose another address with {flag}.",
        ) from error
    listener.setblocking(False)
    return listener


def bound(listener: socket.socket) -> Address:
    """The address that a socket has; it differs from the one asked for where that had port 0."""
    host, port = listener.getsockname()[:2]
    return Address(str(host), int(port))


def check_free(address: Address, flag: str) -> None:
    """Refuse an address that somebody else will bind for us later, if it is taken now."""
    bind(address, flag).close()
