"""Tries an upstream once, so that whoever adds it hears what is wrong: its address, its key, or the model."""

from __future__ import annotations

import difflib
import json
import ssl
from collections.abc import Sequence

import aiohttp

from atoll.domain.errors import DataError, LinkError, PolicyDenied

SECONDS_MAX = 15.0
LIST_BYTES_MAX = 4 * 1024 * 1024
NAMED_MAX = 20
PATH = "/v1/models"


async def try_upstream(base: str, key: str | None, model: str) -> None:
    """Returns where the model is there and the key is good."""
    found = await _models_of(base, key)
    if model not in found:
        raise DataError("upstream-model", f'the upstream has no model "{model}"', hint=_hint(model, found))


async def _models_of(base: str, key: str | None) -> list[str]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=SECONDS_MAX)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(base + PATH, headers=headers, allow_redirects=False) as response,
        ):
            if response.status in (401, 403):
                raise PolicyDenied(
                    "upstream-key",
                    "the upstream refuses the key" if key else "the upstream asks for a key",
                    hint="Give the right one with --key-file or --key-env.",
                )
            if response.status != 200:
                raise _away(base, f"It answers {PATH} with status {response.status}.")
            text = await response.content.read(LIST_BYTES_MAX)
            while len(text) < LIST_BYTES_MAX and (more := await response.content.read(LIST_BYTES_MAX)):
                text += more
            return [str(one["id"]) for one in json.loads(text)["data"]]
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        raise _away(base, f"Its certificate cannot be trusted, or it does not speak TLS: {error}.") from error
    except TimeoutError as error:
        raise _away(base, f"It did not answer within {SECONDS_MAX:.0f} s.") from error
    except (aiohttp.ClientError, OSError) as error:
        raise _away(base, f"{error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _away(base, f"What it answers to {PATH} is no list of models.") from error


def _away(base: str, detail: str) -> LinkError:
    return LinkError(
        "upstream-away",
        f"could not ask the upstream at {base}",
        detail=detail,
        hint="Check the address, and that the server is there.",
    )


def _hint(model: str, found: Sequence[str]) -> str:
    near = difflib.get_close_matches(model, found, n=1)
    if near:
        return f'Did you mean "{near[0]}"?'
    more = f" and {len(found) - NAMED_MAX} more" if len(found) > NAMED_MAX else ""
    return f"There are: {', '.join(found[:NAMED_MAX])}{more}." if found else "It lists none."
