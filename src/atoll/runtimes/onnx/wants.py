"""What may be chosen for a model in ONNX Runtime, with the bounds that hold if nothing is chosen."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Wants:
    at_once_max: int = 2
    """Runs at the same time, each in a thread of its own."""
    threads: int = max(1, (os.cpu_count() or 1) - 1)
    """Threads that share one run."""
    waiting_max: int = 64
    """Requests that wait for a run; one more is refused."""
    wait_seconds_max: float = 30.0
    run_seconds_max: float = 300.0
    merged_rows_max: int = 32
    """Rows of waiting requests that are run together; 0 where each is to be run by itself."""
    merged_request_rows_max: int = 8
    """A request with more rows is never merged: it gains nothing."""
    texts_max: int = 2048
    """Texts in one request for embeddings."""
    tokens_max: int | None = None
    """Tokens of one text; the model's own bound if that is smaller."""
