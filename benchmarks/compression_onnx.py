"""What does each way of making a model in ONNX smaller cost, at how many bytes and milliseconds?

MiniLM is calibrated with the paragraphs of one half of docs/ and judged by those of the other; the model of
digits that comes along by images that it has never seen. Both sides are asked as the runtime serves them.
Needs the extra `compress`.

    python benchmarks/compression_onnx.py [--texts 200]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from atoll.compress.cook import cook
from atoll.compress.onnx_judge import TITLES
from atoll.compress.recipe import Recipe, Task
from atoll.start import start_models
from support import report
from support.minilm import ROOT, minilm

WAYS: dict[str, dict[str, Any]] = {
    "int8": {"to": "int8"},
    "int8-static": {"to": "int8-static", "calibration": True},
    "q4, to the nearest": {"to": "q4", "method": "rtn"},
    "q4, gptq": {"to": "q4", "calibration": True},
}


def quiet(word: str) -> None:
    pass


def paragraphs(place: Path, count: int) -> tuple[Path, Path]:
    """Two files of texts, from pages that the other has nothing of."""
    found = []
    pages = sorted(page for page in (ROOT / "docs").rglob("*.md") if "zh" not in page.parts)
    for number in range(2):
        texts = [part for page in pages[number::2] for part in page.read_text("utf-8").split("\n\n")]
        lines = [" ".join(part.split()) for part in texts if len(part) > 80 and part[0] not in "|`#"]
        found.append(place / f"texts-{number}.txt")
        found[-1].write_text("\n".join(lines[:count]), "utf-8")
    return found[0], found[1]


def digits(place: Path) -> Path:
    held = np.load(ROOT / "tests" / "unit" / "digits_held_out.npz")
    file = place / "digits.npz"
    np.savez(file, image=held["images"].astype(np.float32) / 16, labels=held["labels"])
    return file


def compare(name: str, source: Path, calibration: Path, judge: Path, place: Path) -> None:
    print(f"\n{name}\n{'':<20}" + "".join(f"{title:>10}" for title in TITLES[1:]))
    for number, (way, told) in enumerate(WAYS.items()):
        options = {key: calibration if key == "calibration" else value for key, value in told.items()}
        output = place / f"{name}-{number}{source.suffix}"
        table = cook(Recipe(source, output, (Task("quantize-onnx", options),), judge), quiet).table
        assert table is not None
        for row in table if number == 0 else table[1:]:
            label = way if row[0] == "after" else "as it is"
            print(f"{label:<20}" + "".join(f"{cell:>10}" for cell in row[1:]), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=200)
    given = parser.parse_args()
    print(f"machine   {report.machine()}\nbaseline  the same model in 32 bits")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        compare("minilm", minilm(), *paragraphs(place, given.texts), place)
        images = digits(place)
        source = next(one.path for one in start_models() if one.name == "digits")
        compare("digits", source, images, images, place)


if __name__ == "__main__":
    main()
