"""Which weights of one layer become zero, and what the others make of it: by size, Wanda, or SparseGPT.

All three work on a weight of outputs × inputs; what the inputs are like is told by the sums of their products
(`seen`, inputs × inputs). Half of all weights, or two of each four that lie side by side (2:4).
"""

from __future__ import annotations

from typing import Any

METHODS = ("magnitude", "wanda", "sparsegpt")
GROUP, KEPT = 4, 2  # of the pattern 2:4
BLOCK = 128
DAMPING = 0.01


def sparse(weight: Any, seen: Any, method: str, share: float, is_patterned: bool) -> Any:
    """The weight with so many zeros in it."""
    if method == "sparsegpt":
        return _sparsegpt(weight, seen, share, is_patterned)
    score = weight.abs()
    if method == "wanda":
        score = score * seen.diagonal().clamp(min=0).sqrt()
    if is_patterned:
        return weight * ~_least_of_each_four(score)
    across = score.flatten() if method == "magnitude" else score
    return weight * ~_least(across, share).reshape(score.shape)


def _least(score: Any, share: float) -> Any:
    """A mask of exactly so many of the smallest in each row."""
    import torch

    count = round(score.shape[-1] * share)
    mask = torch.zeros_like(score, dtype=torch.bool)
    return mask.scatter_(-1, score.argsort(dim=-1, stable=True)[..., :count], True)


def _least_of_each_four(score: Any) -> Any:
    groups = score.reshape(*score.shape[:-1], -1, GROUP)
    return _least(groups, 1 - KEPT / GROUP).reshape(score.shape)


def _sparsegpt(weight: Any, seen: Any, share: float, is_patterned: bool) -> Any:
    """Column by column: what a weight that goes leaves open is spread over those to its right."""
    left = weight.clone()
    spread = _spreading(seen)
    diagonal = spread.diagonal()
    for first in range(0, left.shape[1], BLOCK):
        last = min(first + BLOCK, left.shape[1])
        block, within = left[:, first:last].clone(), spread[first:last, first:last]
        errors = block * 0
        gone = None
        if not is_patterned:
            score = (block / diagonal[first:last]) ** 2
            gone = _least(score.flatten(), share).reshape(score.shape)
        for column in range(last - first):
            if is_patterned and column % GROUP == 0:
                four = slice(column, column + GROUP)
                mask = _least_of_each_four((block[:, four] / diagonal[first:last][four]) ** 2)
            is_gone = mask[:, column % GROUP] if gone is None else gone[:, column]
            error = block[:, column] * is_gone / within[column, column]
            block[:, column:] -= error[:, None] * within[column, column:]
            block[:, column] *= ~is_gone  # exactly zero, not nearly
            errors[:, column] = error
        left[:, first:last] = block
        left[:, last:] -= errors @ spread[first:last, last:]
    return left


def _spreading(seen: Any) -> Any:
    """The upper Cholesky factor of the inverse; inputs that were never seen stay out of it."""
    import torch

    steady = seen.double().clone()
    dead = steady.diagonal() == 0
    steady[dead, dead] = 1.0
    steady.diagonal().add_(DAMPING * steady.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(steady))
    return torch.linalg.cholesky(inverse, upper=True).float()
