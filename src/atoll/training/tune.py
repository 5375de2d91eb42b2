"""Tuning: a model learns from examples, by an adapter beside it (LoRA, QLoRA) or by all of its weights.

A step like any other; what it writes is judged on examples that it did not learn from, before and after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.registry.formats.safetensors import read_safetensors
from atoll.training import lora, memory
from atoll.training.batches import encode, stacked
from atoll.training.examples import Example, split
from atoll.training.folder import load, read_config
from atoll.training.loop import STATE, Course, Schedule, train
from atoll.training.steps import Facts, Say, copy_beside, fingerprint, made_whole, require, write_facts

METHODS = ("lora", "qlora", "full")
ADAPTER, MERGED = "adapter", "merged"


@dataclass(frozen=True)
class Options:
    method: str = "lora"
    rank: int = 16
    alpha: float | None = None  # as large as the rank, unless said
    tokens: int = 512  # of an example at most
    held_out: float = 0.1
    merge: bool = False
    embeddings: bool = False  # learn the words' vectors as well, whole; what comes of it is merged
    schedule: Schedule = Schedule()  # noqa: RUF009 (frozen)


def tune(source: Path, target: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    is_merged = options.merge or options.embeddings
    if options.method not in METHODS or (is_merged and options.method == "full"):
        raise ConfigError(
            "config-invalid", "there is no such way to tune", hint=f"One of: {', '.join(METHODS)}."
        )
    read_config(source)
    require()
    wish = asdict(options)
    with made_whole(target, fingerprint(source, wish, [asdict(one) for one in examples])) as work:
        facts = _tune(source, work, examples, options, say)
        if is_merged:
            say("merging")
            lora.merge(work, source, work / MERGED)
        facts["options"] = wish
        write_facts(work, facts)
        (work / STATE).unlink()
    return facts


def _tune(source: Path, work: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    model = load(source, is_quantized=options.method == "qlora")
    seed = options.schedule.seed
    learned, held_out = split(examples, options.held_out, seed)
    rows, judged = (encode(model.tokenizer, part, options.tokens) for part in (learned, held_out))
    say(f"{len(rows):,} rows to learn, {len(judged):,} held out; seed {seed}")
    longest, count = stacked([max(rows, key=lambda row: len(row.tokens))]), options.schedule.batch
    whole = memory.full(model.net, longest, count) if options.method != "qlora" else None
    net = model.net
    if options.method != "full":
        alpha = options.alpha or float(options.rank)
        net = lora.attach(model, options.rank, alpha, seed, embeddings=options.embeddings)
    own = memory.measured(net, longest, count)
    course = train(net, rows, judged, options.schedule, work, say)
    if options.method == "full":
        net.config.use_cache = True
        net.save_pretrained(work)
        copy_beside(source, work)
    else:
        lora.save(net, work)
        if not options.embeddings:
            lora.write_gguf(work, source, work / lora.ADAPTER)
    weights = read_safetensors(source).parameters or 0  # in the net, four bits are counted by the byte
    full = whole or memory.full_at_least(weights, own.kept_for_gradients)
    return {
        **told(course),
        "rows": len(rows),
        "held_out": len(judged),
        "weights": weights,
        "learned": sum(weight.numel() for weight in net.parameters() if weight.requires_grad),
        "memory": own.told(),
        "memory_full": full.told(),
        "memory_peak": memory.peak_bytes(),
    }


def told(course: Course) -> dict[str, Any]:
    return {
        **course.told(),
        "perplexity_before": math.exp(min(course.before, 700)),
        "perplexity_after": math.exp(min(course.best, 700)),
    }
