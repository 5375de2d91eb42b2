"""The shop: a camera that looks at the crates on a shelf, each with a number written on its tag by hand.

The digits are real: six for each figure from the last fifth of "Optical Recognition of Handwritten Digits"
(E. Alpaydin, C. Kaynak, UCI Machine Learning Repository, CC BY 4.0), which the model has not learned from.
They lie in digits.png, 8 × 8 pixels each, a row for each figure. The photo around them is made here: paper,
light, and the grain of a cheap camera.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atoll.demo.sites.raw import Raw

Pixels = NDArray[np.uint8]

SHEET = Path(__file__).with_name("digits.png")
FIGURES, HANDS, SIDE = 10, 6, 8
PHOTO_SIDE = 256
FULL_INK = 240
QUALITY = 90


class Shop:
    """Photos of tags, as JPEG."""

    insert = "add_shelf"

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        with Image.open(SHEET) as sheet:
            self._sheet: Pixels = np.asarray(sheet)
        self._photos = 0

    def next(self) -> Raw:
        figure, hand = int(self._random.integers(FIGURES)), int(self._random.integers(HANDS))
        self._photos += 1
        crate = f"crate {chr(ord('A') + self._photos % 12)}"
        tile = self._sheet[figure * SIDE : (figure + 1) * SIDE, hand * SIDE : (hand + 1) * SIDE]
        return Raw((crate, self._photo(tile), str(figure)))

    def _photo(self, tile: Pixels) -> bytes:
        random, size = self._random, (PHOTO_SIDE, PHOTO_SIDE)
        large = Image.fromarray(tile).resize(size, Image.Resampling.BICUBIC)
        ink = np.clip(np.asarray(large, np.float64) / FULL_INK, 0, 1)
        light = random.uniform(225, 250) + np.linspace(
            random.uniform(-12, 0), random.uniform(0, 5), PHOTO_SIDE
        )
        grain = random.normal(0, random.uniform(2, 6), size)
        grey = light[:, None] * (1 - 0.97 * ink) + grain
        file = io.BytesIO()
        Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
