"""The errors that Atoll raises, in families by who can act on them.

The message is short, lower case and without a full stop, as in PostgreSQL; detail and hint are sentences.
"could not" means that it may succeed later, "cannot" that it never will. The code is a stable slug that
docs/errors.md explains and a program may match on.
"""

from __future__ import annotations

from typing import Any


class AtollError(Exception):
    """Something that a person or a program is told, with what to do about it."""

    def __init__(
        self, code: str, message: str, *, detail: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled whole, so that an error of another process says what it said there."""
        return type(self), (self.code, self.message), vars(self)


class ConfigError(AtollError):
    """The operator can mend it: a setting, a flag, a port, a home."""


class LinkError(AtollError):
    """It may succeed when tried again: a peer is away, a connection broke."""

    retry_after_seconds: float | None = None  # where the other side said when


class DataError(AtollError):
    """Data has to be repaired or a statement changed."""


class PolicyDenied(AtollError):
    """The owner of a rule said no: a certificate, a token, a scope."""
