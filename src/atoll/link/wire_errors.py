"""How an error crosses a link: its family, code, message, detail and hint, and nothing else."""

from __future__ import annotations

from typing import Any

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError, PolicyDenied

FAMILIES: dict[str, type[AtollError]] = {
    family.__name__: family for family in (ConfigError, LinkError, DataError, PolicyDenied)
}
TEXT_LENGTH_MAX = 2000


def to_wire(error: AtollError) -> dict[str, Any]:
    family = next((name for name, kind in FAMILIES.items() if isinstance(error, kind)), "LinkError")
    fields = {"family": family, "code": error.code, "message": error.message}
    optional = {"detail": error.detail, "hint": error.hint}
    return fields | {key: value for key, value in optional.items() if value is not None}


def from_wire(content: object) -> AtollError:
    """Read it back; what cannot be understood becomes an error that says so."""
    if not isinstance(content, dict):
        return LinkError("protocol", "the peer sent an error that cannot be read")
    family = FAMILIES.get(str(content.get("family")), LinkError)
    return family(
        _text(content.get("code")) or "unknown",
        _text(content.get("message")) or "the peer reported an error without a message",
        detail=_text(content.get("detail")),
        hint=_text(content.get("hint")),
    )


def _text(value: object) -> str | None:
    return value[:TEXT_LENGTH_MAX] if isinstance(value, str) else None
