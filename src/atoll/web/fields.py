"""The fields of a request's head, made into words once: what answers a request looks up many."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

_FIELDS = "atoll.fields"


def fields(request: Request) -> Mapping[str, str]:
    """By their names in small letters; of one that stands twice, the first."""
    scope = request.scope
    if _FIELDS not in scope:
        scope[_FIELDS] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
    found: Mapping[str, str] = scope[_FIELDS]
    return found
