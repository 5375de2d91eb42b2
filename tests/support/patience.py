"""Environments of nodes whose constants are others than usual, so that a test need not wait for them."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "at_start"


def at_start(code: str) -> dict[str, str]:
    """What a node is given so that it runs this before everything else."""
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "AT_START": code}
