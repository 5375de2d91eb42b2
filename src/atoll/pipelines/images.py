"""A picture's bytes become an image model's input: turned upright, resized, scaled and normalised.

Height, width, channels and their order follow from the model's input; what the model was trained with
(`scale`, `mean`, `std`, `size`) is said by options. Pillow reads the file; how large it is, is asked first.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from atoll.domain.models import TensorFacts
from atoll.pipelines.arrays import KINDS, unfit
from atoll.runtimes.contract import Array

PIXELS_MAX = 64_000_000
SIZE_DEFAULT = 224
CHANNELS = {1: "L", 3: "RGB"}


def read_image(value: Any, facts: TensorFacts, options: Mapping[str, Any]) -> Array:
    if not isinstance(value, bytes | memoryview):
        raise unfit("an image has to be bytea")
    if len(facts.shape) != 4:
        raise unfit(f'input "{facts.name}" of shape {list(facts.shape)} takes no image')
    is_first = facts.shape[1] in CHANNELS and facts.shape[3] not in CHANNELS
    sizes = facts.shape[2:] if is_first else facts.shape[1:3]
    channels = facts.shape[1] if is_first else facts.shape[3]
    size = int(options.get("size", SIZE_DEFAULT))
    height, width = (given if given > 0 else size for given in sizes)
    pixels = _pixels(bytes(value), width, height, CHANNELS.get(channels, "RGB"))
    if facts.datatype.startswith("FP"):
        found = pixels.astype(np.float32) / np.float32(options.get("scale", 255))
        mean, std = (np.asarray(options.get(name, default), np.float32) for name, default in NORMAL)
        found = (found - mean) / std
    else:
        found = pixels
    return np.ascontiguousarray(found.transpose(2, 0, 1) if is_first else found).astype(KINDS[facts.datatype])


NORMAL = (("mean", 0.0), ("std", 1.0))


def _pixels(data: bytes, width: int, height: int, mode: str) -> Array:
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        if image.width * image.height > PIXELS_MAX:
            raise unfit(f"the image has {image.width} × {image.height} pixels", f"At most {PIXELS_MAX:,}.")
        # JPEG is decoded at a fraction of its size where that is enough.
        image.draft(mode, (width, height))
        upright = ImageOps.exif_transpose(image).convert(mode)
        resized = upright.resize((width, height), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise unfit("the image cannot be read", f"{error}.") from None
    return np.asarray(resized, np.uint8).reshape(height, width, -1)
