"""A node's part in a tuning: judges what a round begins with, learns from its rows, tells how far it moved.

The adapter in the folder is the best that this node has judged, on rows that were never learned from here. An
average that does not help here is not kept here, and learned from all the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.domain.errors import DataError
from atoll.training import lora, round_book, rounds
from atoll.training.batches import Row, encode
from atoll.training.examples import Example, split
from atoll.training.folder import Loaded, load
from atoll.training.loop import Schedule, judge, train
from atoll.training.round_book import Fetch, Tuning
from atoll.training.steps import Say, fingerprint, write

if TYPE_CHECKING:
    import numpy as np

    from atoll.training.rounds import Weights

KEPT, WORK = "adapter", "learning"
LORA_A, LORA_B = ".lora_A.default.weight", ".lora_B.default.weight"


def weights_of(base: Path) -> str:
    """What has to be the same on all nodes that take part."""
    return fingerprint(*sorted(base.glob("*.safetensors")), base / "config.json")


def beginning(base: Path, wish: rounds.Wish) -> Weights:
    """What the first round begins with: an adapter that changes nothing."""
    net = make_net(load(base), wish)
    return second_halves(net)


@dataclass
class Worker:
    """A node that takes part, with its model loaded and its rows read."""

    fetch: Fetch
    tuning: Tuning
    base: Path
    folder: Path
    net: Any
    rows: Sequence[Row]
    held_out: Sequence[Row]
    chance: np.random.Generator
    say: Say

    def step(self) -> rounds.Step:
        """Does what is to be done now; what that was."""
        name = self.tuning.name
        number = round_book.newest(self.fetch, name)
        self.tuning = round_book.find(self.fetch, name)
        sent = round_book.sent(self.fetch, self.tuning)
        last, is_ended = self.tuning.wish.rounds, self.tuning.is_ended
        what = rounds.next_step(number, self._judged(), sent, last, is_ended)
        if what in ("judge", "learn") and number is not None:
            begun = round_book.get(self.fetch, name, number, round_book.START)
            if begun is None:
                return "wait"
            self._check(begun)
            self._judge(number, begun) if what == "judge" else self._learn(number, begun)
        return what

    def _judged(self) -> int | None:
        rows = self.fetch("verdicts", (self.tuning.name,))
        return max((row["round"] for row in rows if row["is_mine"]), default=None)

    def _check(self, begun: Weights) -> None:
        own = {name: one.shape for name, one in second_halves(self.net).items()}
        if own != {name: one.shape for name, one in begun.items()}:
            raise DataError(
                "tuning-misfit",
                f'the adapter of tuning "{self.tuning.name}" is for another model',
                hint="Train on the model that the tuning was opened with.",
            )

    def _judge(self, number: int, begun: Weights) -> None:
        """Kept where it helps here; before the first round, nothing is what there is to keep."""
        set_halves(self.net, begun)
        after = judge(self.net, self.held_out)
        kept = self._kept()
        before = after if kept is None else kept
        is_kept = kept is None or after < before
        if is_kept:
            self._keep(number, after)
        told = {"name": self.tuning.name, "round": number, "rows": len(self.held_out)}
        self.fetch("judge", told | {"before": before, "after": after, "is_kept": is_kept})
        word = "kept" if is_kept else "not kept, it does not help here"
        self.say(f"round {number}: {after:.4f} on what is held out here, {before:.4f} before; {word}")

    def _kept(self) -> float | None:
        try:
            found: dict[str, Any] = json.loads((self.folder / KEPT / "round.json").read_text())
            return float(found["loss"]) if found["tuning"] == self.tuning.name else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _keep(self, number: int, loss: float) -> None:
        """The folder has the adapter of before, or this one."""
        new, old = self.folder / f"{KEPT}.new", self.folder / f"{KEPT}.old"
        for one in (new, old):
            shutil.rmtree(one, ignore_errors=True)
        new.mkdir(parents=True)
        lora.save(self.net, new)
        lora.write_gguf(new, self.base, new / lora.ADAPTER)
        write(new / "round.json", json.dumps({"tuning": self.tuning.name, "round": number, "loss": loss}))
        if (self.folder / KEPT).exists():
            (self.folder / KEPT).rename(old)
        new.rename(self.folder / KEPT)
        shutil.rmtree(old, ignore_errors=True)

    def _learn(self, number: int, begun: Weights) -> None:
        wish, work = self.tuning.wish, self.folder / f"{WORK}-{self.tuning.name}-{number}"
        work.mkdir(parents=True, exist_ok=True)
        set_halves(self.net, begun)
        every = max(1, wish.steps // 2)
        schedule = Schedule(wish.steps, wish.batch, wish.rate, every, 99, seed=wish.seed + number)
        course = train(self.net, self.rows, self.held_out, schedule, work, self.say)
        own = second_halves(self.net)
        moved = {name: own[name] - begun[name] for name in own}
        leaving = rounds.leaving(moved, wish, self.chance)
        me, name = self.tuning.me, self.tuning.name
        is_there = round_book.put(self.fetch, name, number, me, len(self.rows), leaving)
        shutil.rmtree(work)
        cut = rounds.length(moved)
        self.say(
            f"round {number + 1}: learned, {course.before:.4f} to {course.best:.4f} here; moved by {cut:.3g}"
            + (f", cut to {wish.clip:g}" if cut > wish.clip else "")
            + ("" if is_there else "; too late, the tuning has ended")
        )


def worker(
    fetch: Fetch,
    tuning: Tuning,
    base: Path,
    folder: Path,
    examples: Sequence[Example],
    chance: np.random.Generator,
    say: Say,
) -> Worker:
    if weights_of(base) != tuning.base:
        raise DataError(
            "tuning-misfit",
            f'tuning "{tuning.name}" is of another model than {base}',
            hint="Train on the model that the tuning was opened with.",
        )
    wish, model = tuning.wish, load(base)
    learned, held_out = split(examples, wish.held_out, wish.seed)
    rows, judged = (encode(model.tokenizer, part, wish.tokens) for part in (learned, held_out))
    say(f"{len(rows):,} rows to learn, {len(judged):,} held out")
    return Worker(fetch, tuning, base, folder, make_net(model, wish), rows, judged, chance, say)


def make_net(model: Loaded, wish: rounds.Wish) -> Any:
    """With an adapter whose first halves are the same everywhere, and stay."""
    import torch

    net = lora.attach(model, wish.rank, float(wish.rank), wish.seed)
    halves = {
        name.removesuffix(LORA_A): weight for name, weight in net.named_parameters() if name.endswith(LORA_A)
    }
    made = rounds.first_halves({name: tuple(one.shape) for name, one in halves.items()}, wish.seed)
    with torch.no_grad():
        for name, weight in halves.items():
            weight.copy_(torch.from_numpy(made[name]))
            weight.requires_grad_(False)
    return net


def second_halves(net: Any) -> Weights:
    return {
        name.removesuffix(LORA_B): weight.detach().numpy().copy()
        for name, weight in net.named_parameters()
        if name.endswith(LORA_B)
    }


def set_halves(net: Any, weights: Weights) -> None:
    import torch

    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith(LORA_B):
                weight.copy_(torch.from_numpy(weights[name.removesuffix(LORA_B)]))
