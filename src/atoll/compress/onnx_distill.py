"""Distillation of a classifier in ONNX: a narrower one learns how likely its teacher holds each class to be.

The student is the teacher's graph with fewer channels: those that weigh most (`width`), or as many that begin
anew (`scratch`). It is written as the same graph with other weights, so whatever reads the one reads the
other. Rows that have labels are learned from too, and judged by; without labels the teacher is the measure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from atoll.compress.onnx_graph import Graph, load, save
from atoll.compress.onnx_lesson import Lesson, Sample, stacked
from atoll.compress.onnx_narrow import narrow
from atoll.compress.onnx_net import Net
from atoll.compress.onnx_quantize import bring_along
from atoll.compress.onnx_rows import Array, Model, Request, Rows, Scores, read_rows, scores_of
from atoll.domain.errors import DataError
from atoll.runtimes.onnx.refusals import unusable
from atoll.runtimes.onnx.source import find_model
from atoll.training.distill import Options, teachers_share
from atoll.training.examples import EXAMPLES_MIN, ROWS_MAX, split
from atoll.training.loop import STATE, train
from atoll.training.steps import Facts, Say, fingerprint, made_whole, require, write_facts

STUDENTS = ("width", "scratch")


def distill(source: Path, target: Path, rows: Path, options: Options, say: Say) -> Facts:
    share = teachers_share(options, STUDENTS)
    require()
    wish = asdict(options)
    with made_whole(target, fingerprint(source, rows, wish)) as work:
        model = Model(source)
        samples, scores = read_samples(model, rows)
        learned, judged = split(samples, options.held_out, options.schedule.seed)
        graph = load(source)
        lesson = Lesson(graph, scores.output, scores.is_chance, share, options.temperature)
        facts = _distill(graph, lesson, (learned, judged), work, options, say)
        file, _ = find_model(source)
        assert isinstance(file, Path)  # what is made of safetensors reads text, and was refused
        save(graph, work / file.name)
        bring_along(file.parent, work)
        write_facts(work, facts | {"options": wish})
        (work / STATE).unlink()
    return facts


def read_samples(model: Model, path: Path) -> tuple[list[Sample], Scores]:
    """And which output has the scores."""
    if model.encoder is not None:
        raise unusable(
            model.folder.name,
            "it reads text",
            "Give the folder with its safetensors: an encoder is taught from those.",
        )
    for facts in model.engine.inputs:
        if not facts.shape or facts.shape[0] != -1:
            raise unusable(
                model.folder.name,
                f'its input "{facts.name}" has no free number of rows',
                "Export it with a first dimension that is free.",
            )
    rows = read_rows(path, model, ROWS_MAX)
    samples: list[Sample] = []
    for request in rows.requests:
        scores = scores_of(model.run(request))
        samples += _parted(request, scores.chances, rows, len(samples))
    if len(samples) < EXAMPLES_MIN:
        raise DataError(
            "examples-few",
            f"{len(samples)} examples are too few to learn from",
            hint=f"At least {EXAMPLES_MIN} are needed, and hundreds are better.",
        )
    classes = len(samples[0].told)
    if any(one.label is not None and not 0 <= one.label < classes for one in samples):
        raise DataError(
            "examples-malformed", f"a label is none of the {classes} classes", hint="They count from 0."
        )
    return samples, scores


def _parted(request: Request, chances: Array, rows: Rows, first: int) -> Iterator[Sample]:
    for at, told in enumerate(chances):
        label = rows.labels[first + at] if rows.labels else None
        yield Sample({name: array[at] for name, array in request.items()}, told.astype("float32"), label)


def _distill(
    graph: Graph,
    lesson: Lesson,
    parts: tuple[Sequence[Sample], Sequence[Sample]],
    work: Path,
    options: Options,
    say: Say,
) -> Facts:
    learned, judged = parts
    weights = _count(graph)
    of_teacher = lesson.of_teacher(judged)
    say(f"teacher: {of_teacher:.4f} on {len(judged)} rows that are held out")
    if not narrow(graph, stacked(learned[:2])["inputs"], options.share):
        raise DataError(
            "prune-nothing", "it has no channels that could go", hint="A smaller --share may leave fewer."
        )
    net = Net(graph)
    if options.student == "scratch":
        net.begin_anew(options.schedule.seed)
    course = train(net, learned, judged, options.schedule, work, say, lesson.task())
    for name, value in net.learned().items():
        graph.hold(name, value)
    return {
        "loss_teacher": of_teacher,
        **course.told(),
        **lesson.agreement(net, judged),
        "weights_teacher": weights,
        "weights": _count(graph),
        "kind": "classifier",
    }


def _count(graph: Graph) -> int:
    return sum(graph.read(name).size for name in graph.weights if graph.is_float(name))
