"""A repository of Hugging Face's hub, or of one that speaks like it (HF_ENDPOINT).

Its listing names a commit; files are asked for by that, so that what is fetched in pieces is of one revision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from atoll.domain.errors import AtollError, DataError, LinkError, PolicyDenied
from atoll.registry.sources.address import HubAddress
from atoll.registry.sources.choose import Offer
from atoll.registry.sources.client import Client
from atoll.registry.sources.listing import Listing

ENDPOINT = "https://huggingface.co"
FILES_MAX = 20_000


def client_for(address: HubAddress, session: aiohttp.ClientSession, environ: Mapping[str, str]) -> Client:
    token = (environ.get("HF_TOKEN") or "").strip()
    return Client(
        session,
        (environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/"),
        lambda response: _explain(response, address, bool(token)),
        authorization=f"Bearer {token}" if token else None,
    )


async def listing(client: Client, address: HubAddress) -> Listing:
    where = f"{client.base}/api/models/{address.repo}/revision/{quote(address.revision, safe='')}"
    told = await client.read_json(f"{where}?blobs=true")
    try:
        commit = str(told["sha"])
        begin = f"{client.base}/{address.repo}/resolve/{quote(commit, safe='')}/"
        offers = tuple(_offer(one, begin) for one in told["siblings"][:FILES_MAX])
        config = told.get("config")
        architecture = config.get("model_type") if isinstance(config, dict) else None
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            "source-malformed-answer",
            f"cannot understand what {client.base} says of {address}",
            hint="Does HF_ENDPOINT name a hub?",
        ) from error
    through = "" if client.base == ENDPOINT else f" from {client.base}"
    return Listing(f"hf:{address.repo}@{commit}{through}", offers, _licence(told), architecture)


def _offer(told: Mapping[str, Any], begin: str) -> Offer:
    path, size, large = str(told["rfilename"]), told.get("size"), told.get("lfs")
    large = large if isinstance(large, dict) else {}
    blob = told.get("blobId")
    return Offer(
        path,
        begin + quote(path),
        size if type(size) is int else None,
        _text(large.get("sha256")),
        None if large else _text(blob),
    )


def _licence(told: Mapping[str, Any]) -> str | None:
    card = told.get("cardData")
    card = card if isinstance(card, dict) else {}
    name = card.get("license_name") if card.get("license") == "other" else card.get("license")
    if isinstance(name, str):
        return name
    tags = [tag for tag in told.get("tags") or () if isinstance(tag, str)]
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)


def _explain(response: aiohttp.ClientResponse, address: HubAddress, has_token: bool) -> AtollError:
    kind = response.headers.get("X-Error-Code", "")
    if kind == "GatedRepo":
        return PolicyDenied(
            "source-private",
            f"cannot read {address}: its owner wants to be asked",
            hint="Accept its terms on its page, and set HF_TOKEN to a token of the same account.",
        )
    if response.status in (401, 403):
        hint = "Correct its name, or set HF_TOKEN to a token that may read it."
        if has_token:
            hint = "Correct its name, or set HF_TOKEN to another token: this one may not read it."
        return PolicyDenied(
            "source-private", f"cannot read {address}: it is private, or not there", hint=hint
        )
    if response.status == 404:
        what = {"RevisionNotFound": "revision", "EntryNotFound": "file"}.get(kind, "repository")
        return DataError("source-unknown", f"there is no such {what}: {address}", hint="Correct its name.")
    return LinkError("source-away", f"could not read {address}: it answers with status {response.status}")


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
