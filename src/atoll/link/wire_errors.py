"""How an error crosses a link: its family, code, message, detail, hint, when to ask again; nothing else."""

from __future__ import annotations

from typing import Any

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError, PolicyDenied

FAMILIES: dict[str, type[AtollError]] = {
    family.__name__: family for family in (ConfigError, LinkError, DataError, PolicyDenied)
}
TEXT_LENGTH_MAX = 2000
RETRY_SECONDS_MAX = 3600.0


def to_wire(error: AtollError) -> dict[str, Any]:
    family = next((name for name, kind in FAMILIES.items() if isinstance(error, kind)), "LinkError")
    fields = {"family": family, "code": error.code, "message": error.message}
    seconds = getattr(error, "retry_after_seconds", None)
    optional = {"detail": error.detail, "hint": error.hint, "retry_after": seconds}
    return fields | {key: value for key, value in optional.items() if value is not None}


def from_wire(content: object) -> AtollError:
    """Read it back; what cannot be understood becomes an error that says so."""
    if not isinstance(content, dict):
        return LinkError("protocol", "the peer sent an error that cannot be read")
    family = FAMILIES.get(str(content.get("family")), LinkError)
    error = family(
        _text(content.get("code")) or "unknown",
        _text(content.get("message")) or "the peer reported an error without a message",
        detail=_text(content.get("detail")),
        hint=_text(content.get("hint")),
    )
    seconds = content.get("retry_after")
    if isinstance(error, LinkError) and isinstance(seconds, int | float) and 0 <= seconds < RETRY_SECONDS_MAX:
        error.retry_after_seconds = float(seconds)
    return error


def _text(value: object) -> str | None:
    return value[:TEXT_LENGTH_MAX] if isinstance(value, str) else None
