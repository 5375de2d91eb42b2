"""The loop that learns: steps, judged now and then on what is held out, until it gets no better.

A loop that is killed goes on from its last checkpoint and comes to the very same weights. What it returns are
the weights that were best on what is held out. What is learned and judged is a task.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.domain.errors import DataError
from atoll.training.batches import IGNORED, Row, chosen, stacked
from atoll.training.steps import Say

STATE = "checkpoint.pt"
CLIP = 1.0
JUDGED_AT_ONCE = 16


@dataclass(frozen=True)
class Schedule:
    steps: int = 200
    batch: int = 8
    rate: float = 5e-4
    every: int = 25  # steps between two judgements, each of which is a checkpoint
    patience: int = 5  # judgements without a better one, until the end
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Up within a twentieth of the steps, then down along half a cosine to a tenth."""
        rising = max(1, self.steps // 20)
        if step < rising:
            return self.rate * (step + 1) / rising
        along = (step - rising) / max(1, self.steps - rising)
        return self.rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, along))))


@dataclass
class Course:
    """How it went so far; all of it is in a checkpoint."""

    step: int = 0
    before: float = math.nan
    best: float = math.inf
    best_step: int = 0
    worse: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)

    def judge(self, loss: float) -> bool:
        """Whether this is the best so far."""
        self.curve.append((self.step, loss))
        if self.step == 0:
            self.before = loss
        if loss < self.best:
            self.best, self.best_step, self.worse = loss, self.step, 0
            return True
        self.worse += 1
        return False

    def told(self) -> dict[str, Any]:
        return {
            "loss_before": self.before,
            "loss_after": self.best,
            "steps": self.step,
            "best_step": self.best_step,
            "seconds": self.seconds,
            "curve": self.curve,
        }


Loss = Callable[[Any, dict[str, Any]], Any]


def usual_loss(net: Any, batch: dict[str, Any]) -> Any:
    """How surprised the network is by each token that is to be learned."""
    logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return token_loss(logits, batch["labels"])


def token_loss(logits: Any, labels: Any) -> Any:
    from torch.nn import functional

    return functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]).float(), labels[:, 1:].reshape(-1), ignore_index=IGNORED
    )


def judge(net: Any, rows: Sequence[Row]) -> float:
    """The mean over all tokens that were held out."""
    import torch

    total, count = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row.tokens))
    net.eval()
    with torch.no_grad():
        for first in range(0, len(ordered), JUDGED_AT_ONCE):
            batch = stacked(ordered[first : first + JUDGED_AT_ONCE])
            learned = int((batch["labels"][:, 1:] != IGNORED).sum())
            if learned:
                total += float(usual_loss(net, batch)) * learned
                count += learned
    return total / max(1, count)


@dataclass(frozen=True)
class Task:
    """How wrong a network is about rows side by side, while it learns and when it is judged."""

    loss: Loss = usual_loss
    judge: Callable[[Any, Sequence[Any]], float] = judge
    stack: Callable[[Sequence[Any]], dict[str, Any]] = stacked


def train(
    net: Any,
    rows: Sequence[Any],
    held_out: Sequence[Any],
    schedule: Schedule,
    folder: Path,
    say: Say,
    task: Task = Task(),
) -> Course:
    """Trains what of the network wants gradients."""
    import torch

    learned = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    optimizer = torch.optim.AdamW(learned.values(), lr=schedule.rate, weight_decay=0.0)
    course, best = _resume(folder / STATE, learned, optimizer)
    if course.curve:
        say(f"going on after step {course.step}")
    else:
        torch.manual_seed(schedule.seed)
        course.judge(task.judge(net, held_out))
        best = _copy(learned)
        _save(folder / STATE, course, learned, optimizer, best)
        say(f"before: {course.before:.4f} on what is held out")
    while course.step < schedule.steps and course.worse < schedule.patience:
        began = time.perf_counter()
        net.train()
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(course.step)
        places = chosen(len(rows), schedule.batch, course.step, schedule.seed)
        value = task.loss(net, task.stack([rows[at] for at in places]))
        reached = float(value.detach())
        if not math.isfinite(reached):
            raise DataError(
                "training-diverged",
                f"the loss is no number any more at step {course.step + 1}",
                hint="Try a smaller --rate.",
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        if course.step == 0:
            _check_gradients(learned)
        torch.nn.utils.clip_grad_norm_(learned.values(), CLIP)
        optimizer.step()
        course.step += 1
        course.seconds += time.perf_counter() - began
        if course.step % schedule.every == 0 or course.step == schedule.steps:
            is_best = course.judge(task.judge(net, held_out))
            best = _copy(learned) if is_best else best
            _save(folder / STATE, course, learned, optimizer, best)
            held, mark = course.curve[-1][1], ", the best so far" if is_best else ""
            say(f"step {course.step} of {schedule.steps}: {reached:.4f}, held out {held:.4f}{mark}")
    with torch.no_grad():
        for name, weight in learned.items():
            weight.copy_(best[name])
    net.eval()
    return course


def _check_gradients(learned: dict[str, Any]) -> None:
    """The first half of an adapter has none in the first step, since its second half is zero."""
    dead = [
        name
        for name, weight in learned.items()
        if "lora_A" not in name and (weight.grad is None or not bool(weight.grad.any()))
    ]
    if dead:
        raise DataError(
            "gradients-missing",
            f"{len(dead)} of {len(learned)} weights are not learned",
            detail=f'One of them is "{dead[0]}".',
            hint="The processor's kernels for four bits may be broken: try without --quantized.",
        )


def _copy(learned: dict[str, Any]) -> dict[str, Any]:
    return {name: weight.detach().clone() for name, weight in learned.items()}


def _save(path: Path, course: Course, learned: dict[str, Any], optimizer: Any, best: dict[str, Any]) -> None:
    import torch

    other = path.with_suffix(".new")
    state = {
        "course": dict(vars(course)),
        "weights": {name: weight.detach() for name, weight in learned.items()},
        "optimizer": optimizer.state_dict(),
        "best": best,
        "chance": torch.get_rng_state(),
    }
    try:
        with other.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # what torch makes of a full disk
        raise OSError(str(error).splitlines()[0]) from error
    other.replace(path)


def _resume(path: Path, learned: dict[str, Any], optimizer: Any) -> tuple[Course, dict[str, Any]]:
    import torch

    if not path.exists():
        return Course(), {}
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, weight in learned.items():
            weight.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["chance"])
    return Course(**state["course"]), dict(state["best"])
