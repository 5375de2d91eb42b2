"""One file from a source into the store: resumed where a part of it is there, and checked.

The part lies where nodes keep theirs. Only one command fills it at a time.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from atoll.domain.errors import ConfigError, DataError, LinkError
from atoll.registry.manifest import SHA256, File
from atoll.registry.sources.choose import Offer
from atoll.registry.sources.client import Again, Client
from atoll.registry.store import BLOCK_BYTES, Store

STEADY_BYTES = 1024**2  # as much has to come that an attempt is no failure
Advance = Callable[[int], None]
Begin = Callable[[int | None], Advance]  # of all that comes, as far as it is known how much that is


async def download(client: Client, offer: Offer, store: Store, advance: Advance) -> File:
    """The file, in the store. What came before an error or Ctrl-C is kept, and the next try goes on there."""
    if offer.sha256 and offer.bytes is not None:
        file = File(offer.path, offer.sha256, offer.bytes)
        if store.has(file):
            advance(file.bytes)
            return file
    part = store.part(offer.key)
    with _mine(part, offer):
        for may_be_stale in (_size(part) > 0, False):
            sha256 = await _fill(client, offer, store, part, advance)
            if await asyncio.to_thread(_is_as_told, part, offer, sha256):
                break
            advance(-_size(part))
            os.truncate(part, 0)
            if not may_be_stale:
                raise _damaged(offer, "It has another content than its source says.")
        return await asyncio.to_thread(_keep, store, part, offer, sha256)


async def _fill(client: Client, offer: Offer, store: Store, part: Path, advance: Advance) -> str | None:
    """Until the part is whole; says the hash that the source tells."""
    advance(_size(part))
    told: dict[str, str] = {}

    async def attempt() -> None:
        nonlocal told
        place = _size(part)
        if place == offer.bytes and place:
            return
        headers = {"Range": f"bytes={place}-"} if place else {}
        async with client.get(offer.url, headers) as (response, told):
            if place and not _goes_on(response, place):
                advance(-place)
                os.truncate(part, 0)
                place = 0
            if response.status == 416 or (response.status == 206 and not _goes_on(response, place)):
                raise Again("it has no such part of the file")
            total = _total(offer, place, response.headers.get("Content-Length"), told)
            begun_at = place
            try:
                with part.open("ab") as target:
                    async for block in response.content.iter_chunked(BLOCK_BYTES):
                        place += len(block)
                        if place > total:
                            raise _damaged(
                                offer, f"It is longer than the {total:,} bytes that it is to have."
                            )
                        await asyncio.to_thread(target.write, block)
                        advance(len(block))
            except LinkError:
                os.truncate(part, 0)
                raise
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise Again(_why(error), has_come=place - begun_at >= STEADY_BYTES) from error
            except OSError:
                store.check_room(total - place)  # if it is that, this says it better
                raise
            if place < total:
                raise Again("it ended too early", has_come=place - begun_at >= STEADY_BYTES)

    await client.patiently(attempt)
    linked = told.get("x-linked-etag", "").strip('"')
    return offer.sha256 or (linked if SHA256.fullmatch(linked) else None)


def _goes_on(response: aiohttp.ClientResponse, place: int) -> bool:
    told = response.headers.get("Content-Range", "")
    return response.status == 206 and told.startswith(f"bytes {place}-")


def _total(offer: Offer, place: int, length: str | None, told: dict[str, str]) -> int:
    if offer.bytes is not None:
        return offer.bytes
    linked = told.get("x-linked-size", "")
    if linked.isdigit():
        return int(linked)
    if length and length.isdigit():
        return place + int(length)
    raise DataError("source-malformed-answer", f'nobody says how long file "{offer.path}" is')


def _is_as_told(part: Path, offer: Offer, sha256: str | None) -> bool:
    if offer.bytes is not None and _size(part) != offer.bytes:
        return False
    if sha256 is not None:
        return _hash(part, hashlib.sha256()) == sha256
    if offer.git_blob is not None:
        begin = b"blob %d\0" % _size(part)
        return _hash(part, hashlib.sha1(begin, usedforsecurity=False)) == offer.git_blob
    return True


def _keep(store: Store, part: Path, offer: Offer, sha256: str | None) -> File:
    """Give it the name of its content."""
    file = File(offer.path, sha256 or _hash(part, hashlib.sha256()), _size(part))
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    path = store.path(file.sha256)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part.replace(path)
    return file


def _size(part: Path) -> int:
    return part.stat().st_size


def _hash(path: Path, found: hashlib._Hash) -> str:
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK_BYTES):
            found.update(block)
    return found.hexdigest()


@contextmanager
def _mine(part: Path, offer: Offer) -> Iterator[None]:
    """Nobody else writes to the part meanwhile."""
    with part.open("ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                "source-busy",
                f'another command is fetching "{offer.path}"',
                hint="Wait for it, or end it.",
            ) from error
        yield


def _damaged(offer: Offer, detail: str) -> LinkError:
    return LinkError(
        "source-damaged",
        f'file "{offer.path}" did not come as its source says',
        detail=detail,
        hint="Nothing of it was kept. Try again; if it happens twice, tell whoever keeps the source.",
    )


def _why(error: BaseException) -> str:
    return "it fell silent" if isinstance(error, TimeoutError) else f"the connection broke ({error})"
