"""What a model's file, or labels.json beside it, says of what goes in and comes out: names of classes, sizes.

A file's own word, so bounded, and believed by nobody who has not looked at its type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KEPT = ("labels", "scores", "mean", "std", "scale", "size", "rate", "window", "hop", "mels")
LETTERS_MAX = 100_000


def read_said(metadata: Mapping[str, str], folder: Path) -> dict[str, Any]:
    found = {
        key: _value(metadata[key]) for key in KEPT if len(metadata.get(key, "")) in range(1, LETTERS_MAX)
    }
    beside = folder / "labels.json"
    if "labels" not in found and beside.is_file() and beside.stat().st_size < LETTERS_MAX:
        found["labels"] = _value(beside.read_text("utf-8", errors="replace"))
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
