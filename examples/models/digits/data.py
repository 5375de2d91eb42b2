"""Written digits of 8 × 8 pixels: scikit-learn's copy of the test half of UCI's "Optical Recognition of
Handwritten Digits" (CC BY 4.0), 1,797 of them by 13 people, and what makes more of them: turned, moved,
stretched, thicker and thinner.

The people follow each other, so the last fifth is held out: it is by hands that were hardly seen.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch.nn import functional

LABELS = tuple(str(digit) for digit in range(10))
HELD_OUT = 360
VALIDATION = 200  # in front of these: for the temperature alone


def parts() -> tuple[tuple[NDArray[np.float32], NDArray[np.int64]], ...]:
    """Training, validation, held out: images as [n, 1, 8, 8] with ink from 0 to 1."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    cuts = [len(labels) - HELD_OUT - VALIDATION, len(labels) - HELD_OUT]
    return tuple(zip(np.split(images, cuts), np.split(labels, cuts), strict=True))


def varied(images: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Each as another hand, another pen or another camera might have it."""
    random = torch.Generator().manual_seed(seed)
    count = len(images)

    def between(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=random)

    angle, slant = between(-0.22, 0.22), between(-0.2, 0.2)
    wide, high = between(0.85, 1.18), between(0.85, 1.18)
    rows = (
        torch.stack([angle.cos() / wide, slant - angle.sin(), between(-0.2, 0.2)], 1),
        torch.stack([angle.sin(), angle.cos() / high, between(-0.2, 0.2)], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), [count, 1, 8, 8], align_corners=False)
    moved = functional.grid_sample(torch.from_numpy(images), grid, align_corners=False)
    ink = moved.clamp(0, 1) ** between(0.7, 1.4).view(-1, 1, 1, 1)
    noise = torch.randn(ink.shape, generator=random) * between(0, 0.08).view(-1, 1, 1, 1)
    return (ink + noise).clamp(0, 1).numpy()
