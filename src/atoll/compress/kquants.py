"""GPTQ into K-quants: the runtime chooses the scales, the levels that they are for are solved here.

A K-quant's 256 neighbours share 16 bits, and each 16 or 32 of them a few more. Which scales those few bits
make is the runtime's secret; it is asked what it makes of the levels 0 and 1 with them. So what is solved is
what it computes with, to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atoll.compress import forms, gptq

WIDTH = 256
Rows = NDArray[Any]


@dataclass(frozen=True)
class Span:
    """The levels of a form, and whether its blocks have offsets beside their scales."""

    lowest: int
    highest: int
    has_offsets: bool = False


SPANS = {"q3_k": Span(-4, 3), "q4_k": Span(0, 15, True), "q5_k": Span(0, 31, True), "q6_k": Span(-32, 31)}


def solve(weight: Tensor, hessian: Tensor, form: str) -> Rows:
    """The weight's rows as the file holds them. `hessian` as for `gptq.solve`."""
    packed = forms.pack(weight.numpy(), form, hessian.diagonal().numpy())
    levels = gptq.solve_on(grid_of(packed, form), weight, hessian)
    return write(packed, levels.to(torch.int8).numpy(), form)


def grid_of(packed: Rows, form: str) -> gptq.Grid:
    span, shape = SPANS[form], (len(packed), packed.shape[1] // forms.bytes_of(form, WIDTH) * WIDTH)
    zeros, ones = np.zeros(shape, np.int8), np.ones(shape, np.int8)
    offsets = -forms.unpack(write(packed, zeros, form), form)
    if span.has_offsets:
        packed = packed.copy()
        _blocks(packed, form)[:, 2:4] = 0  # what all offsets of a block are multiplied by
    scales = forms.unpack(write(packed, ones, form), form)
    return gptq.Grid(torch.from_numpy(scales), torch.from_numpy(offsets), span.lowest, span.highest)


def write(packed: Rows, levels: Rows, form: str) -> Rows:
    """The same rows, scales and all, with other levels."""
    written = packed.copy()
    blocks = _blocks(written, form)
    stored = (levels - SPANS[form].lowest).astype(np.uint8).reshape(len(blocks), WIDTH)
    _WRITERS[form](blocks, stored)
    return written


def _blocks(packed: Rows, form: str) -> Rows:
    return packed.reshape(-1, forms.bytes_of(form, WIDTH))


def _write_q3(blocks: Rows, stored: Rows) -> None:
    """Two bits four to a byte, 32 apart; of the third bits eight to a byte, as far apart."""
    blocks[:, 32:96] = _side_by_side(stored.reshape(-1, 2, 4, 32) & 3, 2).reshape(-1, 64)
    blocks[:, :32] = _side_by_side(stored.reshape(-1, 8, 32) >> 2, 1)


def _write_q4(blocks: Rows, stored: Rows) -> None:
    blocks[:, 16:144] = _side_by_side(stored.reshape(-1, 4, 2, 32), 4).reshape(-1, 128)


def _write_q5(blocks: Rows, stored: Rows) -> None:
    blocks[:, 16:48] = _side_by_side(stored.reshape(-1, 8, 32) >> 4, 1)
    blocks[:, 48:176] = _side_by_side(stored.reshape(-1, 4, 2, 32) & 15, 4).reshape(-1, 128)


def _write_q6(blocks: Rows, stored: Rows) -> None:
    blocks[:, :128] = _side_by_side(stored.reshape(-1, 2, 2, 64) & 15, 4).reshape(-1, 128)
    blocks[:, 128:192] = _side_by_side(stored.reshape(-1, 2, 4, 32) >> 4, 2).reshape(-1, 64)


def _side_by_side(parts: Rows, bits: int) -> Rows:
    """The next to last axis in the bits of one byte, the first lowest."""
    shifts = np.arange(parts.shape[-2], dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(parts << shifts[:, None], axis=-2)


_WRITERS = {"q3_k": _write_q3, "q4_k": _write_q4, "q5_k": _write_q5, "q6_k": _write_q6}
