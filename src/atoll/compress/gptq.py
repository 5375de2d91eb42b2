"""GPTQ: round a layer's weights to few bits, each column's error made good in the columns that are still
free.

The scales are those that a file can hold. For four bits in groups they are found here: 16 bits, and the sign
that fits the group better, since the levels reach from -8 to 7. So what is solved here is what the runtime
computes with, to the last bit. Columns are taken in order of how much they matter, while groups stay where
they are; so no index has to be kept of who belongs where.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from atoll.domain.errors import DataError

LOWEST, HIGHEST = -8, 7
BLOCK = 128  # columns between two updates of all the others
SHARES = tuple(1.0 - 0.03 * step for step in range(13))  # of the scale that reaches the largest weight
DAMPING, DAMPING_MAX = 0.01, 1.0


@dataclass(frozen=True)
class Rounded:
    """Weights as whole numbers times a scale for each group of neighbours in a row."""

    levels: Tensor  # int8, as the weights
    scales: Tensor  # 32 bits that fit into 16; a row's groups side by side

    @property
    def group(self) -> int:
        return self.levels.shape[1] // self.scales.shape[1]

    def restored(self) -> Tensor:
        return self.levels.float() * self.scales.repeat_interleave(self.group, dim=1)


@dataclass(frozen=True)
class Grid:
    """What a form can hold in each place: whole levels times a scale, less an offset."""

    scales: Tensor  # as the weights
    offsets: Tensor  # likewise
    lowest: int
    highest: int


def nearest(weight: Tensor, group: int) -> Rounded:
    """Each to its nearest level, the scale from the largest of its group: what GPTQ is measured against."""
    largest = weight.view(weight.shape[0], -1, group).abs().amax(-1)
    scales = _in_16_bits(largest / HIGHEST)
    return Rounded(_levels(weight, scales.repeat_interleave(group, dim=1)).to(torch.int8), scales)


def solve(weight: Tensor, hessian: Tensor, group: int) -> Rounded:
    """`hessian` is the sum over inputs of each one times itself, input by input."""
    matters = hessian.diagonal()
    scales = find_scales(_alive(weight, hessian), matters + matters.mean() * 1e-4, group)
    wide = scales.repeat_interleave(group, dim=1)
    grid = Grid(wide, torch.zeros_like(wide), LOWEST, HIGHEST)
    return Rounded(solve_on(grid, weight, hessian).to(torch.int8), scales)


def solve_on(grid: Grid, weight: Tensor, hessian: Tensor) -> Tensor:
    """The levels on a grid that stands."""
    columns = weight.shape[1]
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    rest = _alive(weight, hessian)[:, order]
    scales, offsets = grid.scales[:, order], grid.offsets[:, order]
    factor = _factor(hessian[order][:, order])
    levels = torch.zeros_like(rest)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        piece, corner = rest[:, begin:end], factor[begin:end, begin:end]
        errors = torch.zeros_like(piece)
        for at in range(end - begin):
            column, scale, offset = piece[:, at], scales[:, begin + at], offsets[:, begin + at]
            chosen = _levels(column + offset, scale, grid.lowest, grid.highest)
            levels[:, begin + at] = chosen
            errors[:, at] = (column - (chosen * scale - offset)) / corner[at, at]
            piece[:, at:] -= errors[:, at : at + 1] * corner[at, at:]
        rest[:, end:] -= errors @ factor[begin:end, end:]
    return levels[:, torch.argsort(order)]


def _alive(weight: Tensor, hessian: Tensor) -> Tensor:
    """Without the columns that nothing ever comes in by."""
    return weight * (hessian.diagonal() != 0)


def find_scales(weight: Tensor, matters: Tensor, group: int) -> Tensor:
    """For each group the scale, of either sign, that loses least where inputs are large."""
    parts = weight.view(weight.shape[0], -1, group)
    share = matters.view(1, -1, group)
    place = parts.abs().argmax(-1, keepdim=True)
    largest = parts.gather(-1, place).squeeze(-1)
    best, lowest = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for reach in (LOWEST, HIGHEST):
        for step in SHARES:
            scale = _in_16_bits(largest / reach * step)
            lost = (parts - _levels(parts, scale[..., None]) * scale[..., None]).square().mul(share).sum(-1)
            best = torch.where(lost < lowest, scale, best)
            lowest = torch.minimum(lost, lowest)
    return best


def _levels(weight: Tensor, scale: Tensor, lowest: int = LOWEST, highest: int = HIGHEST) -> Tensor:
    """A group of zeros has the scale 0, and the level 0."""
    return torch.nan_to_num(weight / scale, 0.0, 0.0, 0.0).round().clamp(lowest, highest)


def _in_16_bits(scale: Tensor) -> Tensor:
    return scale.half().float()


def _factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse; damped until there is one."""
    mean = hessian.diagonal().mean()
    damping = DAMPING
    while damping <= DAMPING_MAX:
        damped = hessian + torch.eye(len(hessian)) * (damping * mean)
        damped.diagonal()[hessian.diagonal() == 0] = mean
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed and torch.isfinite(upper).all():
                return upper
        damping *= 10
    raise DataError(
        "calibration-too-small",
        "cannot calibrate: the inputs of a layer say too little",
        hint="Give a longer calibration text, of the kind that the model will see.",
    )
