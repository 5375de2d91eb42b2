"""What is the matter with a node, if anything: named reasons why it is not ready, kept by whoever knows.

An empty set of reasons means ready. `/readyz`, `atoll status` and the metrics all read from here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)


class Readiness:
    """Reasons not to be ready, one for each part that has one; a change is logged once."""

    def __init__(self, **reasons: str) -> None:
        self._reasons: dict[str, str] = dict(reasons)
        self._was_ready = False
        self._tell: Callable[[Mapping[str, str]], None] = lambda reasons: None

    def watch(self, tell: Callable[[Mapping[str, str]], None]) -> None:
        """Tell the reasons, now and whenever they change."""
        self._tell = tell
        tell(self.reasons)

    @property
    def reasons(self) -> Mapping[str, str]:
        return dict(self._reasons)

    @property
    def is_ready(self) -> bool:
        return not self._reasons

    def hold(self, part: str, reason: str) -> None:
        """This part keeps the node from being ready."""
        if self._reasons.get(part) != reason:
            if self._was_ready:
                log.warning("%s", reason, extra={"part": part})
            self._reasons[part] = reason
            self._tell(self.reasons)

    def clear(self, part: str) -> None:
        """This part is well."""
        if self._reasons.pop(part, None) is None:
            return
        if self._was_ready:
            log.info("%s is well again", part, extra={"part": part})
        self._was_ready = self._was_ready or self.is_ready
        self._tell(self.reasons)
