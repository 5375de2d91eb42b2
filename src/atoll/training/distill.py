"""Distillation: a student learns what a teacher thinks of every next token, and not only which one came.

The student begins as some of the teacher's layers, as the teacher with narrower feed-forward parts, or from
nothing. Where a teacher is behind an API, its answers are rows, and learning from them is tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.training.batches import IGNORED, encode
from atoll.training.examples import Example, split
from atoll.training.folder import Loaded, load, read_config
from atoll.training.loop import STATE, Loss, Schedule, judge, token_loss, train, usual_loss
from atoll.training.shrink import keep_layers, narrow
from atoll.training.steps import Facts, Say, copy_beside, fingerprint, made_whole, require, write_facts
from atoll.training.watch import decoder

STUDENTS = ("layers", "width", "scratch")
CALIBRATION_MAX = 128


@dataclass(frozen=True)
class Options:
    student: str = "layers"
    share: float = 0.5  # of layers, or of the inner width, that the student has
    teacher: float = 0.5  # how much the teacher's opinion counts beside the text
    temperature: float = 1.0
    tokens: int = 512
    held_out: float = 0.1
    schedule: Schedule = Schedule()  # noqa: RUF009 (frozen)


def distill(source: Path, target: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    is_sane = 0 < options.share <= 1 and 0 <= options.teacher <= 1 and options.temperature > 0
    if options.student not in STUDENTS or not is_sane:
        raise ConfigError(
            "config-invalid", "there is no such student", hint=f"One of: {', '.join(STUDENTS)}."
        )
    read_config(source)
    require()
    wish = asdict(options)
    with made_whole(target, fingerprint(source, wish, [asdict(one) for one in examples])) as work:
        facts = _distill(source, work, examples, options, say)
        write_facts(work, facts | {"options": wish})
        (work / STATE).unlink()
    return facts


def _distill(source: Path, work: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    teacher = load(source)
    learned, held_out = split(examples, options.held_out, options.schedule.seed)
    rows, judged = (encode(teacher.tokenizer, part, options.tokens) for part in (learned, held_out))
    of_teacher = judge(teacher.net, judged)
    say(f"teacher: {of_teacher:.4f} on {len(judged)} rows that are held out")
    student = _student(
        source, options, lambda net: narrow(net, rows[:CALIBRATION_MAX], 1 - options.share, say)
    )
    loss = opinion(teacher.net, options.teacher, options.temperature) if options.teacher else usual_loss
    course = train(student.net, rows, judged, options.schedule, work, say, loss)
    student.net.config.use_cache = True
    student.net.save_pretrained(work)
    copy_beside(source, work)
    count = sum(weight.numel() for weight in student.net.parameters())
    return {
        "loss_teacher": of_teacher,
        "loss_before": course.before,
        "loss_after": course.best,
        "steps": course.step,
        "best_step": course.best_step,
        "seconds": course.seconds,
        "curve": course.curve,
        "weights_teacher": sum(weight.numel() for weight in teacher.net.parameters()),
        "weights": count,
    }


def _student(source: Path, options: Options, narrower: Callable[[Any], Any]) -> Loaded:
    import torch
    from transformers import AutoModelForCausalLM

    student = load(source)
    net = student.net
    if options.student == "width":
        narrower(net)
        return student
    layers = list(decoder(net).layers)
    keep_layers(net, layers, spaced(len(layers), max(1, round(len(layers) * options.share))))
    if options.student == "scratch":
        torch.manual_seed(options.schedule.seed)
        net = AutoModelForCausalLM.from_config(net.config, dtype=torch.float32)
    return Loaded(net, student.tokenizer, student.kind, source)


def spaced(whole: int, count: int) -> list[int]:
    """So many of all layers, the first and the last among them where there are two."""
    if count == 1:
        return [0]
    return [round(at * (whole - 1) / (count - 1)) for at in range(count)]


def opinion(teacher: Any, share: float, temperature: float) -> Loss:
    """The loss of a student: how far it is from the teacher, mixed with how surprised it is by the text."""
    import torch
    from torch.nn import functional

    teacher.eval()

    def loss(net: Any, batch: dict[str, Any]) -> Any:
        words = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with torch.no_grad():
            told = teacher(**words).logits
        said = net(**words).logits
        learned = batch["labels"][:, 1:] != IGNORED
        apart = functional.kl_div(
            functional.log_softmax(said[:, :-1][learned] / temperature, -1),
            functional.log_softmax(told[:, :-1][learned] / temperature, -1),
            reduction="batchmean",
            log_target=True,
        )
        return share * temperature**2 * apart + (1 - share) * token_loss(said, batch["labels"])

    return loss
