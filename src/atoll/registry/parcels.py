"""Files of models on their way from node to node: in pieces over the control connection, resumed, checked.

A node gives any file of a model that it has to any member that names its hash, and may pass on what it does
not have (relay.py). Who asks for a file keeps what has come, and goes on with whoever is there next.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atoll.domain.errors import AtollError, DataError
from atoll.identity.certificate import PeerIdentity
from atoll.link.peers import Links
from atoll.registry.manifest import SHA256, File
from atoll.registry.relay import Relay
from atoll.registry.store import Store

METHOD = "model.piece"
PIECE_BYTES = 2 * 1024**2
GIVEN_AT_ONCE_MAX = 4
PIECE_SECONDS_MAX = 60.0
STRETCH_SECONDS = 10.0
log = logging.getLogger(__name__)


class Parcels:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._links: Links | None = None
        self._giving = asyncio.Semaphore(GIVEN_AT_ONCE_MAX)
        self._relay = Relay(METHOD, PIECE_SECONDS_MAX)

    def attach(self, links: Links) -> None:
        """From now on there are peers."""
        self._links = links
        links.handle(METHOD, self._give)

    async def fetch(self, files: Sequence[File]) -> bool:
        """Get files from peers, for a stretch of time; says whether anything came."""
        ends = time.monotonic() + STRETCH_SECONDS
        has_come = False
        for file in files:
            # First from who has it, then through those who know somebody.
            for seen in (None, self._peers()):
                if (came := await self._fetch_from_any(file, seen, ends)) is not None:
                    has_come = has_come or came
                    break
            if time.monotonic() > ends:
                break
        return has_come

    async def _fetch_from_any(self, file: File, seen: list[int] | None, ends: float) -> bool | None:
        """Whether anything came; None where nobody gives it."""
        for peer in self._peers():
            try:
                return await self._fetch_from(peer, file, seen, ends)
            except AtollError as error:
                log.debug("node %s gives no file %s: %s", peer, file.sha256[:12], error)
        return None

    def _peers(self) -> list[int]:
        if self._links is None:
            return []
        up = [report for report in self._links.report() if report.state == "up"]
        return [one.number for one in sorted(up, key=lambda one: one.rtt_seconds or 9.0)]

    async def _fetch_from(self, peer: int, file: File, seen: list[int] | None, ends: float) -> bool:
        assert self._links is not None
        part = self._store.part(file.sha256)
        place = part.stat().st_size if part.exists() else 0
        begun_at = place
        if not place:
            self._store.check_room(file.bytes)
        while place < file.bytes and time.monotonic() < ends:
            asked = {"sha256": file.sha256, "offset": place, "seen": seen, "passed_on": 0}
            answer = await self._links.request(peer, METHOD, asked, PIECE_SECONDS_MAX)
            piece = base64.b64decode(answer["data"])
            if not piece or place + len(piece) > file.bytes:
                raise DataError("model-file-damaged", f'node {peer} has another file "{file.path}"')
            await asyncio.to_thread(_append, part, place, piece)
            place += len(piece)
        if place >= file.bytes:
            await asyncio.to_thread(self._store.finish, file)
            log.info('file "%s" of a model came from node %s (%d bytes)', file.path, peer, file.bytes)
        return place > begun_at or place >= file.bytes

    async def _give(self, peer: PeerIdentity, asked: dict[str, Any]) -> dict[str, Any]:
        sha256, offset = asked.get("sha256"), asked.get("offset")
        if not (isinstance(sha256, str) and re.fullmatch(SHA256, sha256)):
            raise DataError("model-file-elsewhere", "a file of a model is asked for by its hash")
        if not (isinstance(offset, int) and offset >= 0):
            raise DataError("model-file-elsewhere", "a piece begins at a place in the file")
        async with self._giving:
            piece = await asyncio.to_thread(_read, self._store.path(sha256), offset)
        if piece is None:
            assert self._links is not None
            return await self._relay.pass_on(self._links, self._peers(), peer.number, asked)
        return {"data": base64.b64encode(piece).decode()}


def _append(part: Path, place: int, piece: bytes) -> None:
    with part.open("r+b" if part.exists() else "wb") as target:
        target.seek(place)
        target.write(piece)


def _read(path: Path, offset: int) -> bytes | None:
    try:
        with path.open("rb") as source:
            source.seek(offset)
            return source.read(PIECE_BYTES)
    except FileNotFoundError:
        return None
