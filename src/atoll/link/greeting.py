"""The first frame each way: what a connection is for, and which protocol version both speak.

`Inbox` receives one message at a time before a connection has found its owner. Who may ask for what is the
listener's decision.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from atoll.domain.errors import AtollError, LinkError
from atoll.link.frame import Framed
from atoll.link.settings import LinkSettings
from atoll.link.traffic import Traffic
from atoll.link.wire import Kind, decode_message

VERSION_MIN = 1
VERSION_MAX = 1


class Purpose(StrEnum):
    CONTROL = "control"
    STREAM = "stream"
    MODEL = "model"
    LAYERS = "layers"
    ANSWER = "answer"
    AUTHORITY = "authority"
    JOIN = "join"
    RENUMBER = "renumber"


@dataclass(frozen=True)
class Hello:
    """What a node says of itself, and what this connection is for."""

    purpose: Purpose
    release: str
    boot: str
    number: int = 0
    stream: str = ""
    versions: tuple[int, int] = (VERSION_MIN, VERSION_MAX)

    def as_message(self) -> dict[str, Any]:
        return {
            "hello": self.purpose.value,
            "versions": list(self.versions),
            "release": self.release,
            "boot": self.boot,
            "number": self.number,
            "stream": self.stream,
        }


class Inbox:
    """Receives the greeting: one message, then the connection is held until somebody asks for the next."""

    def __init__(self) -> None:
        self._framed: Framed | None = None
        self._message: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

    def make_protocol(self, settings: LinkSettings, live: set[Framed]) -> Framed:
        self._framed = Framed(settings, self, Traffic(), live)
        return self._framed

    async def next(self) -> dict[str, Any]:
        """The next message; raises when the connection ends or sends anything else."""
        assert self._framed is not None
        message = await self._message
        self._message = asyncio.get_running_loop().create_future()
        return message

    def data_received(self, chunk: memoryview) -> None:
        raise LinkError("protocol", "the peer sent data before it was greeted")

    def frame_received(self, kind: Kind, payload: bytes) -> None:
        if kind is not Kind.MESSAGE or self._message.done():
            raise LinkError("protocol", f"the peer sent a {kind.name} frame before it was greeted")
        self._message.set_result(decode_message(payload))
        if self._framed is not None:
            self._framed.hold()

    def writable(self, ready: bool) -> None:
        """Greetings are small: nothing to do."""

    def closed(self, error: AtollError | None) -> None:
        if not self._message.done():
            self._message.set_exception(
                error or LinkError("connection-closed", "the peer closed the connection")
            )
            # Nobody may be waiting any more; then there is nobody to tell.
            self._message.exception()


def read_hello(message: dict[str, Any]) -> Hello:
    versions = message.get("versions")
    texts = [message.get(key, "") for key in ("release", "boot", "stream")]
    number = message.get("number", 0)
    try:
        purpose = Purpose(str(message.get("hello")))
    except ValueError as error:
        raise LinkError("protocol", "the peer asked for something unknown") from error
    if (
        not (isinstance(versions, list) and len(versions) == 2)
        or not all(isinstance(version, int) for version in versions)
        or not all(isinstance(text, str) and len(text) <= 200 for text in texts)
        or not isinstance(number, int)
    ):
        raise LinkError("protocol", "the peer's greeting cannot be read")
    return Hello(purpose, texts[0], texts[1], number, texts[2], (versions[0], versions[1]))


def choose_version(theirs: tuple[int, int]) -> int:
    """The highest protocol version that both sides speak."""
    version = min(VERSION_MAX, theirs[1])
    if version < max(VERSION_MIN, theirs[0]):
        raise LinkError(
            "version-mismatch",
            "cannot talk to the peer: no common protocol version",
            detail=f"It speaks {theirs[0]} to {theirs[1]}, this node {VERSION_MIN} to {VERSION_MAX}.",
            hint="Update the older of the two nodes.",
        )
    return version
