"""Windows of vibration, as the recipe of the bearing model makes them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np

FILE = Path(__file__).resolve().parents[2] / "examples" / "models" / "bearing" / "data.py"


def save_windows(path: Path, count: int, seed: int, is_labelled: bool = True) -> Path:
    spec = importlib.util.spec_from_file_location("bearing_data", FILE)
    assert spec is not None
    assert spec.loader is not None
    data = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = data
    spec.loader.exec_module(data)
    x, labels = data.windows(count, data.TRAINED, seed=seed)
    np.savez(path, window=x, **({"labels": labels} if is_labelled else {}))
    return path
