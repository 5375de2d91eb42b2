"""How it is said that a model is no good, and that a request does not fit it."""

from __future__ import annotations

from atoll.domain.errors import DataError


def unusable(name: str, why: str, hint: str | None = None) -> DataError:
    detail = f"{why[:1].upper()}{why[1:]}."
    return DataError("model-unusable", f'cannot load the model "{name}"', detail=detail, hint=hint)


def refused(message: str, detail: str | None) -> DataError:
    return DataError("request-refused", message, detail=detail)
