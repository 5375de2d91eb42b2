"""One model over several nodes: its first layers in the engine here, the others in workers that hold them."""

from __future__ import annotations

from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")
