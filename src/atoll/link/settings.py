"""Every bound and interval of the link in one value, so that tests and operators can change them.

The defaults notice a silent peer within ten seconds and keep each node's buffers to a few megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Compression = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class LinkSettings:
    ping_every_seconds: float = 3.0
    silent_after_seconds: float = 9.0
    greeting_seconds_max: float = 10.0
    dial_seconds_max: float = 5.0
    request_seconds_max: float = 30.0
    close_seconds_max: float = 2.0
    backoff_first_seconds: float = 0.2
    backoff_last_seconds: float = 15.0
    message_bytes_max: int = 8 * 1024 * 1024
    greeting_bytes_max: int = 64 * 1024
    chunk_bytes_max: int = 256 * 1024
    requests_max: int = 64
    streams_max: int = 256
    strangers_max: int = 32
    rate_bytes_per_second: int | None = None
    compression: Compression = "auto"
