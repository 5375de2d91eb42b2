"""What a route says of giving answers again: for how long, and how alike questions have to be. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from atoll.domain.errors import DataError

SECONDS_USUAL = 86_400.0
SECONDS_MAX = 30 * 86_400.0
FIELDS = ("seconds", "encoder", "threshold", "per_key")


@dataclass(frozen=True)
class Policy:
    seconds: float = SECONDS_USUAL
    encoder: str | None = (
        None  # the model that tells how alike two questions are; without one, they are the same
    )
    threshold: float = 1.0  # from which on they are alike
    is_per_key: bool = False


def parse(told: Any) -> Policy:
    """DataError `cache-malformed` where it makes no sense."""
    if not isinstance(told, Mapping):
        raise _malformed("it is no object")
    if unknown := sorted(told.keys() - set(FIELDS)):
        raise _malformed(f'it has no field "{unknown[0]}"')
    encoder, is_per_key = told.get("encoder"), told.get("per_key", False)
    if encoder is not None and not (isinstance(encoder, str) and encoder):
        raise _malformed("its encoder is the name of a model")
    if not isinstance(is_per_key, bool):
        raise _malformed("per_key is true or false")
    if (encoder is None) is not (told.get("threshold") is None):
        raise _malformed("an encoder needs a threshold, and a threshold an encoder")
    return Policy(
        _number(told, "seconds", SECONDS_USUAL, SECONDS_MAX),
        encoder,
        _number(told, "threshold", 1.0, 1.0),
        is_per_key,
    )


def _number(told: Mapping[str, Any], name: str, usual: float, most: float) -> float:
    value = told.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise _malformed(f"its {name} is a number above 0, up to {most:,.10g}")
    return float(value)


def _malformed(why: str) -> DataError:
    return DataError(
        "cache-malformed",
        f"cannot use what is said of giving answers again: {why}",
        hint='For example: --cache exact, or --cache \'{"encoder": "minilm", "threshold": 0.95}\'',
    )
