"""What do LoRA, QLoRA, distillation, pruning and rounds come to, beside the plain way at equal steps?

A small Llama is tuned far from what it knows (to the pages of docs/) and near to it (to texts of its own kind
that it has not seen), taught and pruned on texts of its own. Each way of tuning runs in a process of its own,
whose peak of memory is measured. Needs the extra atoll[compress], and the folder of a model with texts beside
it, as examples/models/shoal makes them.

    python benchmarks/tuning.py FOLDER --texts FILE [--steps 100] [--only tune,distill,prune,rounds]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atoll.training import distill, prune, rounds, tune
from atoll.training.examples import Example, of_rows
from atoll.training.loop import Schedule
from atoll.training.steps import require
from support import report

ROOT = Path(__file__).resolve().parents[1]
TOKENS, BATCH = 128, 4
RATES = {"full": 1e-3, "lora": 3e-3, "qlora": 3e-3}  # the best of some that were tried for each
WORDS = "+words"  # with the words' vectors, whole
WAYS = ("full", "lora", "qlora", f"lora{WORDS}", f"qlora{WORDS}")
ALPHA = 32.0
TEXTS_MAX = 400


def quiet(word: str) -> None:
    pass


def pages() -> list[Example]:
    texts = [file.read_text() for file in sorted((ROOT / "docs").rglob("*.md")) if "zh" not in file.parts]
    return of_rows({"text": one} for text in texts for one in text.split("\n\n") if len(one) > 80)


def own_texts(file: Path) -> list[Example]:
    return of_rows({"text": one[:600]} for one in file.read_text().split("\n\n")[:TEXTS_MAX] if len(one) > 80)


def one_way(folder: Path, rows: list[Example], way: str, steps: int, seed: int, out: Path) -> None:
    """In a process of its own: what it came to, and its peak of memory beside the programs."""
    from atoll.training.memory import peak_bytes

    require()
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch

    torch.set_num_threads(1)
    programs = peak_bytes()
    method = way.removesuffix(WORDS)
    schedule = Schedule(steps, BATCH, RATES[method], max(1, steps // 4), 99, seed)
    wish = tune.Options(method, alpha=ALPHA, tokens=TOKENS, embeddings=way != method, schedule=schedule)
    facts = tune.tune(folder, out, rows, wish, quiet)
    print(json.dumps(facts | {"beside": facts["memory_peak"] - programs}))


def measure_tuning(folder: Path, near: Path | None, steps: int, seed: int, place: Path) -> None:
    where = "another domain" if near is None else "texts of its own kind"
    print(f"\ntuning to {where}, {steps} steps of {BATCH} × {TOKENS} tokens, rank 16")
    print("way           loss before   after   against full   learned   counted MB   peak MB   s a step")
    whole: dict[str, Any] = {}
    for way in WAYS:
        command = [sys.executable, "-W", "ignore", __file__, str(folder), "--one", way]
        command += ["--steps", str(steps), "--seed", str(seed)]
        command += ["--out", str(place / f"{'far' if near is None else 'near'}-{way}")]
        command += [] if near is None else ["--near", str(near)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        facts = json.loads(done.stdout.splitlines()[-1])
        whole = whole or facts
        print(
            f"{way:13} {facts['loss_before']:11.4f} {facts['loss_after']:7.4f}"
            f" {facts['loss_after'] / whole['loss_after'] - 1:13.2%} {facts['learned']:10,}"
            f" {facts['memory']['total'] / 1e6:10.1f} {facts['beside'] / 1e6:9.0f}"
            f" {facts['seconds'] / facts['steps']:10.2f}",
            flush=True,
        )


def measure_teaching(folder: Path, texts: Sequence[Example], steps: int, seed: int, place: Path) -> None:
    """By a teacher that has learned the texts before, as one would have it."""
    learning = Schedule(steps, BATCH, 1e-3, max(1, steps // 4), 99, seed)
    teacher = place / "teacher"
    facts = tune.tune(folder, teacher, texts, tune.Options("full", tokens=TOKENS, schedule=learning), quiet)
    print(f"\na student of half the layers, {steps} steps on {len(texts)} texts that its teacher has learned")
    print(f"teacher          {facts['loss_before']:.4f} → {facts['loss_after']:.4f}", flush=True)
    for student in ("layers", "scratch"):
        for name, share in (("alone", 0.0), ("taught", 0.5)):
            wish = distill.Options(student, teacher=share, tokens=TOKENS, schedule=learning)
            facts = distill.distill(teacher, place / f"{student}-{name}", texts, wish, quiet)
            print(
                f"{student:8} {name:7} {facts['loss_before']:.4f} → {facts['loss_after']:.4f}"
                f"   (teacher {facts['loss_teacher']:.4f})",
                flush=True,
            )


def measure_pruning(folder: Path, texts: Sequence[Example], steps: int, seed: int, place: Path) -> None:
    print(f"\npruned by half; healed for {steps} steps; one caller in the runtime, 32 bits")
    print("way              loss before  pruned   healed    weights   file MB   tokens/s")
    learning = Schedule(steps, BATCH, 3e-4, steps, 9, seed)
    wish = tune.Options("full", tokens=TOKENS, schedule=learning)
    facts = tune.tune(folder, place / "whole-healed", texts, wish, quiet)
    _speed("whole", folder, place, f"{facts['loss_before']:11.4f} {'':7} {facts['loss_after']:8.4f}")
    for method, pattern in (
        *((method, False) for method in prune.METHODS),
        *((method, True) for method in prune.METHODS[:3]),
    ):
        options = prune.Options(method, is_patterned=pattern, tokens=TOKENS, seed=seed, heal=learning)
        name = f"{method}{' 2:4' if pattern else ''}"
        out = place / f"pruned-{method}-{pattern}"
        facts = prune.prune(folder, out, texts, options, quiet)
        told = f"{facts['loss_before']:11.4f} {facts['loss_pruned']:7.4f} {facts['loss_after']:8.4f}"
        is_told_by_speed = facts["is_smaller"] or (method == "sparsegpt" and pattern)
        if is_told_by_speed:
            _speed(name, out, place, told)
        else:
            print(f"{name:16} {told}", flush=True)


def _speed(name: str, folder: Path, place: Path, told: str) -> None:
    """In llama.cpp, by the command that measures models."""
    from atoll.registry.formats.safetensors import read_safetensors

    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests" / "support" / "fix_tiny_llama.py")
    assert spec is not None
    assert spec.loader is not None
    tiny = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tiny)
    file = place / f"{folder.name}.gguf"
    tiny.write_gguf(folder, file)
    command = [sys.executable, "-c", "from atoll.cli.app import main; main()", "model", "bench", str(file)]
    command += ["--requests", "5", "--concurrency", "1", "--seed", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    speed = json.loads(done.stdout)["results"][0]["tokens_per_second"]
    weights = read_safetensors(folder).parameters or 0
    print(f"{name:16} {told:28} {weights:10,} {file.stat().st_size / 1e6:9.1f} {speed:10.0f}", flush=True)


def measure_rounds(folder: Path, steps: int, seed: int) -> None:
    """Three nodes with a third of the pages each, by the alphabet; in one process, without a database."""
    from atoll.training import round_work
    from atoll.training.batches import encode
    from atoll.training.examples import split
    from atoll.training.folder import load
    from atoll.training.loop import judge, train

    count = 8
    wish = rounds.Wish(
        rounds=count, steps=max(1, steps // count), batch=BATCH, rate=3e-3, tokens=TOKENS, seed=seed
    )
    print(
        f"\nrounds: three nodes, each with other pages: {count} rounds of {wish.steps} steps, judged on all"
    )
    learned, held_out = split(pages(), 0.1, seed)
    third = len(learned) // 3
    model = load(folder)
    parts = [encode(model.tokenizer, learned[at * third : (at + 1) * third], TOKENS) for at in range(3)]
    everything = encode(model.tokenizer, held_out, TOKENS)
    net = round_work.make_net(model, wish)
    start = round_work.second_halves(net)

    def learn(rows: Sequence[Any], begun: Any, count: int, at: int) -> Any:
        round_work.set_halves(net, begun)
        schedule = Schedule(count, BATCH, wish.rate, count, 99, seed + at)
        with tempfile.TemporaryDirectory() as work:
            train(net, rows, everything[:8], schedule, Path(work), quiet)
        own = round_work.second_halves(net)
        return {name: own[name] - begun[name] for name in own}

    print(f"before           {judge(net, everything):.4f}", flush=True)
    for at, rows in enumerate(parts):
        learn(rows, start, wish.rounds * wish.steps, 0)
        print(f"node {at + 1} alone     {judge(net, everything):.4f}", flush=True)
    for way, noise in (("mean", 0.0), ("trimmed", 0.0), ("mean", 0.02)):
        told = rounds.Wish(**(wish.told() | {"way": way, "noise": noise, "clip": 10.0}))
        chance, begun = np.random.default_rng(seed), start
        for number in range(count):
            moved = [learn(rows, begun, wish.steps, number) for rows in parts]
            sent = [
                rounds.Part(at, len(parts[at]), rounds.leaving(one, told, chance))
                for at, one in enumerate(moved)
            ]
            begun = rounds.averaged(begun, sent, told)
        round_work.set_halves(net, begun)
        lengths = ", ".join(f"{rounds.length(one):.2f}" for one in moved)
        print(
            f"{way:8} noise {noise:g}: {judge(net, everything):.4f}   last moves {lengths};"
            f" epsilon {rounds.epsilon(noise, count):.3g}",
            flush=True,
        )
    learn([row for rows in parts for row in rows], start, wish.rounds * wish.steps, 0)
    print(f"all rows at one  {judge(net, everything):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "build" / "models" / "shoal")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="tune,distill,prune,rounds")
    parser.add_argument("--near", type=Path, help="texts that it has not seen; those beside the model")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if not (told.folder / "config.json").exists():
        print(
            f"no model in {told.folder}: make it with examples/models/shoal/train.py, or name another folder"
        )
        return
    if told.one:
        rows = own_texts(told.near) if told.near else pages()
        one_way(told.folder, rows, told.one, told.steps, told.seed, told.out)
        return
    require()
    import torch

    torch.set_num_threads(1)
    report.heading(
        "what do ways to train come to, beside full fine-tuning, alone, and the whole model?",
        told.seed,
        "none",
        "in each table the first line, at equal steps on equal rows",
    )
    texts = own_texts(told.texts or told.folder.parent / "calibration.txt")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if "tune" in told.only:
            for near in (None, told.near or told.folder.parent / "held-out.txt"):
                measure_tuning(told.folder, near, told.steps, told.seed, place)
        if "distill" in told.only:
            measure_teaching(told.folder, texts, told.steps, told.seed, place)
        if "prune" in told.only:
            measure_pruning(told.folder, texts, told.steps // 2, told.seed, place)
        if "rounds" in told.only:
            measure_rounds(told.folder, told.steps, told.seed)


if __name__ == "__main__":
    main()
