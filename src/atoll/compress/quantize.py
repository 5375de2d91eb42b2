"""The steps that turn a model folder into a GGUF file: rounding every weight by a plan, or only writing them
down.

Each linear part is rounded in the order in which a token goes through it, and whatever comes later is
calibrated with what it became. A plan is a form for each part; recipes name one (`q4_0`), a mix that
llama.cpp is known for (`q4_k_m`), or have the mix found for so many bytes (`mixed`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from atoll.compress import forms
from atoll.compress.allot import Choice, allot, fewest_bytes
from atoll.compress.calibrate import Seen, linear_names, read_rows, walk
from atoll.compress.folder import Folder, load, read_folder
from atoll.compress.gguf_file import Recasting, bytes_beside, padded, write_gguf
from atoll.compress.packing import METHODS, SOLVED, pack
from atoll.compress.sense import output_names, read_choices, save_choices, sense
from atoll.compress.steps import Facts, Say, malformed, read_options
from atoll.domain.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from atoll.compress.decoder import Decoder

GROUPS = (32, 64, 128)
MIX, MIXED = "q4_k_m", "mixed"


@dataclass(frozen=True)
class Options:
    """How to quantize."""

    to: str = "q4_0"
    method: str | None = None  # by default the best that the form and a calibration allow
    group: int = 32
    calibration: Path | None = None
    rows: int = 128
    length: int = 256
    embedding: str = "q6_k"
    plan: dict[str, str] | None = None  # forms by part, where one does not do for all
    max_bytes: int | None = None  # of the file, where forms are mixed
    sensitivity: Path | None = None  # what was measured of the parts before


def quantize(source: Path, target: Path, options: Mapping[str, Any], say: Say) -> Facts:
    asked = check(read_options(Options, options))
    folder = read_folder(source)
    say("reading weights")
    decoder = load(folder)
    rows = None
    if asked.calibration is not None and method_of(asked) in ("gptq", "imatrix"):
        rows = read_rows(asked.calibration, source / "tokenizer.json", _length(asked, folder), asked.rows)
    if asked.to == MIXED:
        assert rows is not None
        asked = replace(asked, plan=mix(decoder, folder, asked, rows, say))
    recasting = recast(decoder, asked, rows, say)
    say("writing")
    write_gguf(decoder, folder, recasting, target)
    tokens = 0 if rows is None else rows.numel()
    return {
        "form": asked.to,
        "method": method_of(asked),
        "calibration_tokens": tokens,
        "bytes": target.stat().st_size,
        "mix": dict(Counter(recasting.forms.values())) if asked.to == MIXED else None,
    }


def measure_parts(source: Path, target: Path, options: Mapping[str, Any], say: Say) -> Facts:
    """What `mixed` goes by, for several budgets: a file that says how touchy each part is."""
    asked = check(read_options(Options, options))
    folder = read_folder(source)
    decoder = load(folder)
    assert asked.calibration is not None
    rows = read_rows(asked.calibration, source / "tokenizer.json", _length(asked, folder), asked.rows)
    save_choices(sense(decoder, rows, asked.group, say), target)
    return {}


def mix(decoder: Decoder, folder: Folder, asked: Options, rows: Tensor, say: Say) -> dict[str, str]:
    """The forms that lose least within the bytes; what the plan says of a part holds."""
    if asked.sensitivity is not None:
        choices = read_choices(asked.sensitivity)
    else:
        choices = sense(decoder, rows, asked.group, say)
    parts = [*linear_names(decoder), *output_names(decoder)]
    if choices.keys() != set(parts):
        raise malformed("what was measured is of another model")
    for name, form in (asked.plan or {}).items():
        _known(name, choices)
        weight: Tensor = decoder.get_submodule(name).weight  # type: ignore[assignment]
        form = forms.fitting(form, weight.shape[1])
        choices[name] = (Choice(form, padded(forms.bytes_of(form, weight.numel())), 0.0),)
    beside = bytes_beside(decoder, folder, parts)
    assert asked.max_bytes is not None
    found = allot(choices, asked.max_bytes - beside)
    if found is None:
        raise DataError(
            "budget-missed",
            f"cannot keep the model in {asked.max_bytes:,} bytes",
            detail=f"In the smallest forms it has {beside + fewest_bytes(choices):,}.",
            hint="Give it more, or take a smaller model.",
        )
    return found


def export(source: Path, target: Path, options: Mapping[str, Any], say: Say) -> Facts:
    """The weights as they are, in 16 bits or 32."""
    asked = read_options(Export, options)
    if asked.to not in ("f16", "f32"):
        raise malformed(f'a model is exported as f16 or f32, not as "{asked.to}"')
    folder = read_folder(source)
    decoder = load(folder)
    say("writing")
    parts = [*linear_names(decoder), *output_names(decoder)]
    write_gguf(decoder, folder, Recasting(dict.fromkeys(parts, asked.to)), target)
    return {"form": asked.to, "bytes": target.stat().st_size}


@dataclass(frozen=True)
class Export:
    to: str = "f16"


def check(asked: Options) -> Options:
    known = (*forms.FORMS, MIX, MIXED)
    if asked.to not in known:
        raise malformed(f'there is no form "{asked.to}"', f"Forms are {', '.join(known)}.")
    for form in (asked.embedding, *(asked.plan or {}).values()):
        if form not in forms.FORMS:
            raise malformed(f'there is no form "{form}"', f"Forms are {', '.join(forms.FORMS)}.")
    method = method_of(asked)
    if method not in METHODS:
        raise malformed(f'there is no method "{method}"', f"Methods are {', '.join(METHODS)}.")
    if (asked.to == MIXED) != (asked.max_bytes is not None):
        raise malformed(
            "forms are mixed for a number of bytes", 'Say both: to = "mixed", and max_bytes = 4_300_000.'
        )
    if asked.to == MIXED and method != "gptq":
        raise malformed(
            "forms are mixed by what a calibration says", "Name a text, --calibration FILE, and no method."
        )
    if method == "gptq" and asked.to not in (*SOLVED, MIX, MIXED):
        raise malformed(
            f'"gptq" makes whole numbers for {", ".join(SOLVED)}, and not {asked.to}', "Use imatrix or plain."
        )
    if method == "rtn" and asked.to != "q4_0":
        raise malformed(f'"rtn" makes whole numbers for q4_0, and not {asked.to}', "Use plain.")
    if asked.group not in GROUPS:
        raise malformed(f"a group has 32, 64 or 128 weights, not {asked.group}")
    if method in ("gptq", "imatrix") and asked.calibration is None:
        raise malformed(f'"{method}" needs a calibration text', "Name a file of text: --calibration FILE")
    if not 1 <= asked.rows <= 4096 or not 32 <= asked.length <= 8192:
        raise malformed("a calibration has 1 to 4,096 rows of 32 to 8,192 tokens")
    return asked


def method_of(asked: Options) -> str:
    if asked.method is not None:
        return asked.method
    if asked.calibration is None:
        return "plain"
    return "gptq" if asked.to in (*SOLVED, MIX, MIXED) else "imatrix"


def recast(decoder: Decoder, asked: Options, rows: Tensor | None, say: Say) -> Recasting:
    """The decoder holds afterwards what the file will."""
    plan, method = forms_of(decoder, asked), method_of(asked)
    packed: dict[str, Any] = {}

    def treat(name: str, part: nn.Module, seen: Seen | None, how: str = method) -> None:
        weight: Tensor = part.weight.detach().float()  # type: ignore[union-attr, operator]
        hessian = None if seen is None else seen.hessian / seen.count
        packed[name] = pack(weight, plan[name], how, asked.group, hessian)
        restored = torch.from_numpy(forms.unpack(packed[name], plan[name]))
        part.weight = nn.Parameter(restored, requires_grad=False)

    for name in output_names(decoder):
        treat(name, decoder.get_submodule(name), None, "plain")

    if rows is not None:
        walk(decoder, rows, treat, say)
    else:
        for name in linear_names(decoder):
            treat(name, decoder.get_submodule(name), None)
    return Recasting(plan, packed)


def forms_of(decoder: Decoder, asked: Options) -> dict[str, str]:
    linear = list(linear_names(decoder))
    if asked.to == MIX:
        plan = {name: _mixed(name, decoder.shape.layers) for name in linear}
    else:
        plan = dict.fromkeys(linear, asked.to)
    plan |= dict.fromkeys(output_names(decoder), asked.embedding)
    for name in asked.plan or {}:
        _known(name, plan)
    plan |= asked.plan or {}
    widths = {name: decoder.get_submodule(name).weight.shape[1] for name in plan}  # type: ignore[union-attr, index]
    return {name: forms.fitting(form, int(widths[name])) for name, form in plan.items()}


def _known(name: str, parts: Mapping[str, Any]) -> None:
    if name not in parts:
        raise malformed(f'the model has no part "{name}"')


def _mixed(name: str, layers: int) -> str:
    """Six bits for what llama.cpp holds to be touchy: in some layers, values and the way back."""
    if not name.endswith(("v_proj", "down_proj")):
        return "q4_k"
    at = int(name.split(".")[2])
    is_more = at < layers // 8 or at >= 7 * layers // 8 or (at - layers // 8) % 3 == 2
    return "q6_k" if is_more else "q4_k"


def _length(asked: Options, folder: Folder) -> int:
    return min(asked.length, folder.shape.context)
