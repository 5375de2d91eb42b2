"""A model in a registry of OCI images: its manifest, and which layer is which file.

Understood are layers that are one file each, as ModelPack, Docker's models, Ollama's and ORAS write them.
Archives are not unpacked, and layers of code are left alone. Every blob is named by its digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp

from atoll.domain.errors import AtollError, ConfigError, DataError, LinkError, PolicyDenied
from atoll.registry.sources.address import ImageAddress
from atoll.registry.sources.choose import Offer
from atoll.registry.sources.client import Client, as_json, is_loopback
from atoll.registry.sources.listing import Listing

MANIFEST_BYTES_MAX = 4 * 1024**2
TEXT_BYTES_MAX = 1024**2
LICENCE_LENGTH_MAX = 80
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
IMAGE = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
INDEX = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
NAMES = ("org.cncf.model.filepath", "org.cnai.model.filepath", "org.opencontainers.image.title")
LICENCES = ("application/vnd.ollama.image.license", "application/vnd.docker.ai.license")
DOCKER = {"docker.io": "registry-1.docker.io", "index.docker.io": "registry-1.docker.io"}
DOCKER_KEY = "https://index.docker.io/v1/"


def client_for(address: ImageAddress, session: aiohttp.ClientSession, environ: Mapping[str, str]) -> Client:
    host = DOCKER.get(address.host, address.host)
    scheme = "http" if is_loopback(urlsplit(f"//{host}").hostname) else "https"
    basic = credentials(address.host, environ)
    client = Client(session, f"{scheme}://{host}", lambda response: _explain(response, address))

    async def renew(response: aiohttp.ClientResponse) -> str | None:
        kind, values = challenge(response.headers.get("WWW-Authenticate", ""))
        if kind == "basic":
            return basic
        if kind != "bearer" or "realm" not in values:
            return None
        return await _token(client, values, f"repository:{address.path}:pull", basic)

    client.renew = renew
    return client


async def listing(client: Client, address: ImageAddress) -> Listing:
    reference = address.reference
    manifest, digest = await _manifest(client, address, reference)
    if isinstance(manifest.get("manifests"), list):
        manifest, digest = await _manifest(client, address, _the_one(manifest["manifests"], address))
    layers = [layer for layer in manifest.get("layers") or () if isinstance(layer, dict)]
    begin = f"{client.base}/v2/{address.path}/blobs/"
    offers = tuple(offer for layer in layers if (offer := _offer(layer, begin)) is not None)
    if not offers and layers:
        kinds = ", ".join(sorted({str(layer.get("mediaType")) for layer in layers}))
        raise DataError(
            "source-no-model",
            f"{address} has no layer that is a file of a model",
            detail=f"Its layers are: {kinds}.",
            hint="Archives are not unpacked: push one file per layer, without compression.",
        )
    licence = await _licence(client, manifest, layers, begin)
    return Listing(f"oci:{address.host}/{address.path}@{digest}", offers, licence)


def challenge(told: str) -> tuple[str, dict[str, str]]:
    """What a registry wants to be shown: bearer or basic, and where a token is to be had."""
    kind, _, rest = told.partition(" ")
    return kind.lower(), {key.lower(): value for key, value in re.findall(r'(\w+)="([^"]*)"', rest)}


def credentials(host: str, environ: Mapping[str, str]) -> str | None:
    """What `docker login` wrote down for a registry, as far as it is written in the file itself."""
    told = environ.get("DOCKER_AUTH_CONFIG")
    if told is None:
        folder = environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/") / ".docker"
        try:
            told = (Path(folder) / "config.json").read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None
    try:
        auths = json.loads(told).get("auths") or {}
        keys = (host, f"https://{host}", DOCKER_KEY if host in DOCKER else host)
        found: dict[str, Any] = next((auths[key] for key in keys if key in auths), {})
        return f"Basic {found['auth']}" if found.get("auth") else None
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            "source-credentials", "cannot read the registries' credentials", detail=f"{error}."
        ) from error


async def _token(client: Client, values: Mapping[str, str], scope: str, basic: str | None) -> str | None:
    asked = {"service": values.get("service", ""), "scope": values.get("scope") or scope}
    realm = values["realm"]
    url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(asked)}"
    keeper = Client(client.session, realm, client.explain, authorization=basic)
    told = await keeper.read_json(url)
    token = (told.get("token") or told.get("access_token")) if isinstance(told, dict) else None
    return f"Bearer {token}" if isinstance(token, str) else None


async def _manifest(client: Client, address: ImageAddress, reference: str) -> tuple[dict[str, Any], str]:
    url = f"{client.base}/v2/{address.path}/manifests/{reference}"
    found, said = await client.read(url, {"Accept": ", ".join((*IMAGE, *INDEX))}, MANIFEST_BYTES_MAX)
    digest = f"sha256:{hashlib.sha256(found).hexdigest()}"
    told = said.get("docker-content-digest", digest)
    if (DIGEST.fullmatch(reference) and reference != digest) or (DIGEST.fullmatch(told) and told != digest):
        raise LinkError(
            "source-damaged",
            f"the manifest of {address} has another content than its digest says",
            detail=f"It is {digest}.",
            hint="Try again; if it happens twice, tell whoever keeps the registry.",
        )
    manifest = as_json(found, url)
    if not isinstance(manifest, dict):
        raise DataError("source-malformed-answer", f"the manifest of {address} is no object")
    return manifest, digest


def _the_one(manifests: Sequence[Any], address: ImageAddress) -> str:
    digests = [one["digest"] for one in manifests if isinstance(one, dict) and _digest(one)]
    if len(digests) == 1:
        return str(digests[0])
    raise DataError(
        "source-no-model",
        f"{address} names {len(digests)} images",
        detail=f"They are: {', '.join(digests[:20])}." if digests else None,
        hint="Name one: oci:HOST/PATH@sha256:…",
    )


def _offer(layer: Mapping[str, Any], begin: str) -> Offer | None:
    """The file that a layer is; None where it is an archive, code, or has no name."""
    kind, digest, size = str(layer.get("mediaType")), _digest(layer), layer.get("size")
    if digest is None or type(size) is not int or ".code." in kind or _is_archive(kind):
        return None
    notes = layer.get("annotations")
    notes = notes if isinstance(notes, dict) else {}
    name = next((notes[key] for key in NAMES if isinstance(notes.get(key), str)), None)
    if name is None and (kind == "application/vnd.ollama.image.model" or "gguf" in kind):
        name = "model.gguf"
    return name and Offer(str(name).removeprefix("./"), f"{begin}sha256:{digest}", size, digest)


def _is_archive(kind: str) -> bool:
    return kind.endswith((".tar", "gzip", "+zstd"))


def _digest(told: Mapping[str, Any]) -> str | None:
    found = DIGEST.fullmatch(str(told.get("digest")))
    return found[1] if found else None


async def _licence(
    client: Client, manifest: Mapping[str, Any], layers: Sequence[Mapping[str, Any]], begin: str
) -> str | None:
    notes = manifest.get("annotations")
    if isinstance(notes, dict) and isinstance(notes.get("org.opencontainers.image.licenses"), str):
        return str(notes["org.opencontainers.image.licenses"])
    config = manifest.get("config")
    if isinstance(config, dict) and ".model.config." in str(config.get("mediaType")) and _digest(config):
        told = await client.read_json(f"{begin}{config['digest']}")
        described = told.get("descriptor") if isinstance(told, dict) else None
        if isinstance(described, dict) and isinstance(described.get("licenses"), list):
            return ", ".join(map(str, described["licenses"])) or None
    for layer in layers:
        if layer.get("mediaType") in LICENCES and _digest(layer):
            text, _ = await client.read(f"{begin}{layer['digest']}", bytes_max=TEXT_BYTES_MAX)
            lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
            return ", ".join(lines[:2])[:LICENCE_LENGTH_MAX] or None
    return None


def _explain(response: aiohttp.ClientResponse, address: ImageAddress) -> AtollError:
    if response.status in (401, 403):
        return PolicyDenied(
            "source-private",
            f"cannot read {address}: it is private, or not there",
            hint="Correct its name, or log in with docker login; DOCKER_AUTH_CONFIG is read, too.",
        )
    if response.status == 404:
        return DataError("source-unknown", f"there is no such image: {address}", hint="Correct its name.")
    return LinkError("source-away", f"could not read {address}: it answers with status {response.status}")
