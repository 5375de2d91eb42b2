"""Pruning: weights that become zero, or structure that goes, and healing by a little training.

Zeros make a file no smaller and no engine here faster; structure that goes does both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError, DataError
from atoll.training import shrink, sparsify
from atoll.training.batches import Row, encode
from atoll.training.examples import Example, split
from atoll.training.folder import load, read_config
from atoll.training.loop import STATE, Course, Schedule, judge, train
from atoll.training.steps import Facts, Say, copy_beside, fingerprint, made_whole, require, write_facts
from atoll.training.watch import layers_with_inputs, linears

METHODS = (*sparsify.METHODS, *shrink.METHODS)
CALIBRATION_MAX = 128


@dataclass(frozen=True)
class Options:
    method: str = "sparsegpt"
    share: float = 0.5
    is_patterned: bool = False  # 2:4
    tokens: int = 512
    held_out: float = 0.1
    seed: int = 0
    heal: Schedule | None = None


def prune(source: Path, target: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    is_zeroing = options.method in sparsify.METHODS
    if (
        options.method not in METHODS
        or not 0 < options.share < 1
        or (options.is_patterned and not is_zeroing)
    ):
        raise ConfigError(
            "config-invalid", "there is no such way to prune", hint=f"One of: {', '.join(METHODS)}."
        )
    read_config(source)
    require()
    wish = asdict(options)
    with made_whole(target, fingerprint(source, wish, [asdict(one) for one in examples])) as work:
        facts = _prune(source, work, examples, options, say)
        write_facts(work, facts | {"options": wish})
        (work / STATE).unlink(missing_ok=True)
    return facts


def _prune(source: Path, work: Path, examples: Sequence[Example], options: Options, say: Say) -> Facts:
    model = load(source)
    learned, held_out = split(examples, options.held_out, options.seed)
    rows, judged = (encode(model.tokenizer, part, options.tokens) for part in (learned, held_out))
    before, weights = judge(model.net, judged), _count(model.net)
    say(f"before: {before:.4f} on {len(judged)} rows that are held out")
    calibration = rows[:CALIBRATION_MAX]
    if options.method in sparsify.METHODS:
        _zero(model.net, calibration, options, say)
    else:
        way = {"layers": shrink.drop_layers, "width": shrink.narrow, "heads": shrink.drop_heads}[
            options.method
        ]
        way(model.net, calibration, options.share, say)
    pruned = judge(model.net, judged)
    say(f"pruned: {pruned:.4f}")
    healed = _heal(model.net, rows, judged, options.heal, work, say) if options.heal else None
    model.net.config.use_cache = True
    model.net.save_pretrained(work)
    copy_beside(source, work)
    return {
        "loss_before": before,
        "loss_pruned": pruned,
        "loss_after": healed.best if healed else pruned,
        "weights_before": weights,
        "weights": _count(model.net),
        "zeros": _zeros(model.net),
        "is_smaller": options.method in shrink.METHODS,
        "seconds_healing": healed.seconds if healed else 0.0,
    }


def _zero(net: Any, rows: Sequence[Row], options: Options, say: Say) -> None:
    import torch

    for number, layer, seen in layers_with_inputs(net, rows):
        for name, linear in linears(layer).items():
            if options.is_patterned and linear.in_features % sparsify.GROUP:
                raise DataError("prune-pattern", f"inputs of {name} cannot be parted into groups of four")
            made = sparsify.sparse(
                linear.weight.detach(), seen[name], options.method, options.share, options.is_patterned
            )
            with torch.no_grad():
                linear.weight.copy_(made)
        say(f"layer {number} is pruned")


def _heal(
    net: Any, rows: Sequence[Row], judged: Sequence[Row], schedule: Schedule, work: Path, say: Say
) -> Course:
    """What is zero stays zero: without a gradient the optimizer never moves it."""
    hooks = []
    for layer in net.model.layers:
        for linear in linears(layer).values():
            if bool((linear.weight == 0).any()):
                mask = linear.weight.detach() != 0
                hooks.append(linear.weight.register_hook(lambda gradient, mask=mask: gradient * mask))
    course = train(net, rows, judged, schedule, work, say)
    for hook in hooks:
        hook.remove()
    return course


def _count(net: Any) -> int:
    return sum(weight.numel() for weight in net.parameters())


def _zeros(net: Any) -> int:
    return sum(int((weight == 0).sum()) for weight in net.parameters())
