"""How keyword does on recordings of your own: WAV files, a folder for each word, the rest in `other`.

python keyword/hear.py FOLDER [--model src/atoll/start/keyword.onnx]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import data
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import classifier  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=HERE.parents[2] / "src/atoll/start/keyword.onnx")
    given = parser.parse_args()
    files = [path for label in data.LABELS for path in sorted((given.folder / label).glob("*.wav"))]
    x = np.stack([data.read_sound(path.read_bytes(), data.SOUND, {}) for path in files])
    y = np.array([data.LABELS.index(path.parent.name) for path in files])
    classifier.report(given.folder.name, classifier.run(given.model, x), y, data.LABELS)


if __name__ == "__main__":
    main()
