"""An echo that keeps what it was asked."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from atoll.runtimes.contract import Ask
from atoll.runtimes.echo import EchoRuntime


class Heard(EchoRuntime):
    def __init__(self, asks: list[Ask], **more: Any) -> None:
        super().__init__(**more)
        self._asks = asks

    @contextlib.asynccontextmanager
    async def generate(self, ask: Ask) -> AsyncIterator[AsyncIterator[bytes]]:
        self._asks.append(ask)
        async with super().generate(ask) as events:
            yield events
