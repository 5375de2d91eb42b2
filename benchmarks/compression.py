"""What does each way of rounding cost of a small language model, at how many bytes?

The model is that of examples/models/shoal (train it first), calibrated with texts that it was trained on and
judged by texts that it has never seen, by the runtime on the files themselves. Losses are against 16 bits,
with the middle 95 % of a paired bootstrap. Forms are mixed for the bytes of two of the other files, by what
each part loses by itself, measured once. Needs the extra `compress`.

    python benchmarks/compression.py [--model build/models/shoal] [--rows 128] [--seed 7] [--only mixed]

"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from atoll.compress import comparing
from atoll.compress.cook import judging_rows
from atoll.compress.quantize import export, measure_parts, quantize
from atoll.compress.reading import read
from support import report

SHOAL = Path(__file__).resolve().parents[1] / "build" / "models" / "shoal"
WAYS: dict[str, dict[str, Any]] = {
    "q8_0": {"to": "q8_0", "embedding": "q8_0", "method": "plain"},
    "q4_0 rtn 32": {"method": "rtn"},
    "q4_0 rtn 128": {"method": "rtn", "group": 128},
    "q4_0 llama.cpp": {"method": "plain"},
    "q4_0 llama.cpp, importance": {"method": "imatrix"},
    "q4_0 gptq 32": {"method": "gptq"},
    "q4_0 gptq 128": {"method": "gptq", "group": 128},
    "q4_k_m": {"to": "q4_k_m", "method": "plain"},
    "q4_k_m, importance": {"to": "q4_k_m", "method": "imatrix"},
    "q4_k_m gptq": {"to": "q4_k_m", "method": "gptq"},
    "q4_k, importance": {"to": "q4_k", "method": "imatrix"},
    "q4_k gptq": {"to": "q4_k", "method": "gptq"},
    "q3_k, importance": {"to": "q3_k", "method": "imatrix"},
    "q3_k gptq": {"to": "q3_k", "method": "gptq"},
}
LIKE = ("q4_0", "q4_k_m")  # whose bytes a mix gets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SHOAL)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default="", help="ways that begin so")
    given = parser.parse_args()
    print(f"machine   {report.machine()}\nseed      {given.seed}")
    folder, calibration = given.model / "shoal", given.model / "calibration.txt"
    rows = judging_rows(given.model / "held-out.txt", folder, given.rows)
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place) / "f16.gguf"
        export(folder, plain, {}, silent)
        base = read(plain, rows)
        print(f"{'':<28}{'MB':>8}{'perplexity':>12}{'loss':>9}   95 %{'':<14}{'s':>5}")
        print(f"{'f16':<28}{plain.stat().st_size / 1e6:>8.2f}{base.perplexity:>12.3f}")
        for name, told in ways(folder, calibration, Path(place), given.only):
            file = Path(place) / "model.gguf"
            began = time.monotonic()
            quantize(folder, file, {**told, "calibration": calibration}, silent)
            took = time.monotonic() - began
            found = read(file, rows)
            differ = comparing.perplexities(
                np.array(base.lost), np.array(found.lost), np.array(base.tokens, float)
            )
            loss = comparing.compare(len(rows), given.seed, differ)
            print(
                f"{name:<28}{file.stat().st_size / 1e6:>8.2f}{found.perplexity:>12.3f}{loss.middle:>9.2%}"
                f"   {loss.low:+.2%} to {loss.high:+.2%}{took:>6.0f}",
                flush=True,
            )


def ways(folder: Path, calibration: Path, place: Path, only: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from ((name, told) for name, told in WAYS.items() if name.startswith(only))
    if not "mixed".startswith(only):
        return
    parts, file = place / "parts.json", place / "like.gguf"
    measure_parts(folder, parts, {"to": "mixed", "max_bytes": 1, "calibration": calibration}, silent)
    for form in LIKE:
        quantize(folder, file, {"to": form, "method": "plain"}, silent)
        size = file.stat().st_size
        yield f"mixed, bytes of {form}", {"to": "mixed", "max_bytes": size, "sensitivity": parts}


def silent(word: str) -> None:
    pass


if __name__ == "__main__":
    main()
