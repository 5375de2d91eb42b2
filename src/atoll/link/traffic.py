"""What a link counts: bytes before compression and on the wire, streams, and who was refused and why.

Wire bytes are frames with their headers, without the few percent that TLS adds.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass

log = logging.getLogger("atoll.link")


@dataclass
class Traffic:
    """Running totals of one link since the node started; control and data connections together."""

    raw_in_bytes: int = 0
    raw_out_bytes: int = 0
    wire_in_bytes: int = 0
    wire_out_bytes: int = 0
    streams_opened: int = 0


class Refusals:
    """Counts by reason whatever was turned away, and says so in the log."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def refuse(self, reason: str, who: str, why: str) -> None:
        self._counts[reason] += 1
        log.warning("refused %s: %s (%s)", who, why, reason)

    def counts(self) -> dict[str, int]:
        return dict(self._counts)
