"""What a node has sent over its links, as its own metrics count it."""

from __future__ import annotations

import asyncio
import http.client
import re

SECONDS_MAX = 5.0
SENT = re.compile(r'^atoll_link_bytes_total\{[^}]*direction="out"[^}]*\} (\S+)$', re.MULTILINE)


async def sent_bytes(port: int) -> int | None:
    """Bytes to all peers since the node started; none where it does not answer."""
    try:
        return sum(int(float(number)) for number in SENT.findall(await asyncio.to_thread(_metrics, port)))
    except (OSError, http.client.HTTPException):
        return None


def _metrics(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_MAX)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().read().decode()
    finally:
        connection.close()
