"""The least that may stand between two programs: hands on the bytes of each connection, and looks at none.

python relay.py PORT BEHIND, where BEHIND is another port or the path of a socket
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast


class End(asyncio.Protocol):
    """One of the two ends; what comes here leaves at the other one."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class Front(End):
    def __init__(self, behind: str) -> None:
        super().__init__()
        self.behind = behind

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.dialling = asyncio.create_task(self.dial())

    async def dial(self) -> None:
        loop = asyncio.get_running_loop()
        if self.behind.isdigit():
            _, back = await loop.create_connection(End, "127.0.0.1", int(self.behind))
        else:
            _, back = await loop.create_unix_connection(End, self.behind)
        self.other, back.other = back, self
        for data in self.early:
            self.data_received(data)


async def main(port: int, behind: str) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Front(behind), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
