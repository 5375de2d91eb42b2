"""Distillation: a student learns what a teacher thinks, and not only which token came.

A language model learns what its teacher thinks of every next token; an encoder the vectors that its teacher
gives texts. The student begins as some of the teacher's layers, as the teacher with narrower feed-forward
parts, or from nothing. Where a teacher is behind an API, its answers are rows, and learning from them is
tuning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.training.batches import IGNORED, Row, encode
from atoll.training.encoder import PARTS, imitation, load_encoder
from atoll.training.encoder import encode as encode_texts
from atoll.training.examples import Example, split
from atoll.training.folder import is_encoder, load
from atoll.training.loop import STATE, Loss, Schedule, Task, token_loss, train
from atoll.training.shrink import keep_layers, narrow
from atoll.training.steps import Facts, Say, copy_beside, fingerprint, made_whole, require, write_facts
from atoll.training.watch import layers

STUDENTS = ("layers", "width", "scratch")
CALIBRATION_MAX = 128
TEACHER = 0.5  # of what a language model learns; an encoder has nothing else to learn from


@dataclass(frozen=True)
class Options:
    student: str | None = None  # layers, where nothing is said
    share: float = 0.5  # of layers, or of the inner width, that the student has
    teacher: float | None = None  # how much the teacher's opinion counts beside the text
    temperature: float = 1.0
    tokens: int = 512
    held_out: float = 0.1
    schedule: Schedule = Schedule()  # noqa: RUF009 (frozen)


@dataclass(frozen=True)
class Lesson:
    """A teacher, who is to become the student, and what is learned from whom."""

    teacher: Any
    student: Any
    rows: Sequence[Row]
    judged: Sequence[Row]
    task: Task
    parts: Mapping[str, Any] = field(default_factory=dict)  # that a network is made with, or without


def distill(source: Path, target: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    share = teachers_share(options, STUDENTS)
    teaches_vectors = is_encoder(source)
    if teaches_vectors and (options.teacher is not None or options.temperature != 1):
        raise ConfigError(
            "config-invalid",
            "an encoder learns from its teacher alone, and from all that it tells",
            hint="Leave out --teacher and --temperature.",
        )
    require()
    wish = asdict(options)
    with made_whole(target, fingerprint(source, wish, [asdict(one) for one in examples])) as work:
        parts = split(examples, options.held_out, options.schedule.seed)
        lesson = (_of_encoder if teaches_vectors else _of_language)(source, *parts, options, share)
        facts = _distill(lesson, work, options, say) | {"kind": "encoder" if teaches_vectors else "language"}
        copy_beside(source, work)
        write_facts(work, facts | {"options": wish})
        (work / STATE).unlink()
    return facts


def teachers_share(options: Options, students: Sequence[str]) -> float:
    """How much the teacher counts; ConfigError where there is no such student."""
    share = TEACHER if options.teacher is None else options.teacher
    is_sane = 0 < options.share <= 1 and 0 <= share <= 1 and options.temperature > 0
    if options.student not in (None, *students) or not is_sane:
        raise ConfigError(
            "config-invalid", "there is no such student", hint=f"One of: {', '.join(students)}."
        )
    return share


def _of_language(
    source: Path, learned: Sequence[Example], held_out: Sequence[Example], options: Options, share: float
) -> Lesson:
    teacher, student = load(source), load(source)
    rows, judged = (encode(teacher.tokenizer, part, options.tokens) for part in (learned, held_out))
    task = Task(opinion(teacher.net, share, options.temperature)) if share else Task()
    return Lesson(teacher.net, student.net, rows, judged, task)


def _of_encoder(
    source: Path, learned: Sequence[Example], held_out: Sequence[Example], options: Options, share: float
) -> Lesson:
    teacher, student = load_encoder(source), load_encoder(source)
    rows, judged = (encode_texts(teacher.reading, part, options.tokens) for part in (learned, held_out))
    return Lesson(teacher.net, student.net, rows, judged, imitation(teacher), PARTS)


def _distill(lesson: Lesson, work: Path, options: Options, say: Say) -> Facts:
    of_teacher = lesson.task.judge(lesson.teacher, lesson.judged)
    say(f"teacher: {of_teacher:.4f} on {len(lesson.judged)} rows that are held out")
    student = _begun(lesson, options, say)
    course = train(student, lesson.rows, lesson.judged, options.schedule, work, say, lesson.task)
    student.config.use_cache = True
    student.save_pretrained(work)
    return {
        "loss_teacher": of_teacher,
        **course.told(),
        "weights_teacher": sum(weight.numel() for weight in lesson.teacher.parameters()),
        "weights": sum(weight.numel() for weight in student.parameters()),
    }


def _begun(lesson: Lesson, options: Options, say: Say) -> Any:
    import torch

    net = lesson.student
    if options.student == "width":
        narrow(net, lesson.rows[:CALIBRATION_MAX], 1 - options.share, say)
        return net
    whole = list(layers(net))
    keep_layers(net, whole, spaced(len(whole), max(1, round(len(whole) * options.share))))
    if options.student == "scratch":
        torch.manual_seed(options.schedule.seed)
        return type(net)(net.config, **lesson.parts)
    return net


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
