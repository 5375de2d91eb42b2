"""The forms in which a GGUF file keeps numbers: how large each is, and turning 32 bits into it and back.

Q4_0 with whole numbers that were solved here is put together in numpy; every other form is made by the
runtime's own functions, called in its library, as llama.cpp's own programs would write it. In K-quants other
levels may take the place of its own (kquants.py).
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import ConfigError, DataError

if TYPE_CHECKING:
    import gguf

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
BLOCK = 32  # numbers with one scale in Q4_0
FORMS = ("f32", "f16", "q8_0", "q6_k", "q5_k", "q4_k", "q4_0", "q3_k", "q5_0", "iq4_nl")
# Widths that a form cannot hold get a form that can.
NARROW = {"q6_k": "q8_0", "q5_k": "q8_0", "q4_k": "q5_0", "q3_k": "q4_0"}


def kind_of(form: str) -> gguf.GGMLQuantizationType:
    import gguf

    return gguf.GGMLQuantizationType[form.upper()]


def fits(form: str, width: int) -> bool:
    import gguf

    return width % int(gguf.GGML_QUANT_SIZES[kind_of(form)][0]) == 0


def fitting(form: str, width: int) -> str:
    """The form, or the next that can hold rows of this width."""
    while not fits(form, width):
        form = NARROW.get(form, "f16")
    return form


def bytes_of(form: str, count: int) -> int:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind_of(form)]
    return count // int(block) * int(size)


def pack(weight: Floats, form: str, importance: Floats | None = None) -> Bytes | Floats | NDArray[np.float16]:
    """`importance` says of each column how much it matters."""
    if form == "f32":
        return weight
    if form == "f16":
        return weight.astype(np.float16)
    source = np.ascontiguousarray(weight, np.float32)
    rows, width = source.shape
    target = np.zeros((rows, bytes_of(form, width)), np.uint8)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    address = None if weights is None else weights.ctypes.data  # of what is held until the call is over
    written = _library().ggml_quantize_chunk(
        int(kind_of(form)), source.ctypes.data, target.ctypes.data, 0, rows, width, address
    )
    if written != target.nbytes:
        raise DataError("model-unusable", f"cannot keep rows of {width} numbers as {form.upper()}")
    return target


def pack_levels(levels: NDArray[np.int8], scales: Floats) -> Bytes:
    """Whole numbers from -8 to 7 as Q4_0; the scale of a larger group is written several times."""
    rows, width = levels.shape
    if width % BLOCK or width % scales.shape[1] or (width // scales.shape[1]) % BLOCK:
        raise DataError(
            "model-unusable", f"cannot pack rows of {width} with {scales.shape[1]} scales as Q4_0"
        )
    halves = np.repeat(scales, width // BLOCK // scales.shape[1], axis=1).astype(np.float16)
    nibbles = (levels + 8).astype(np.uint8).reshape(rows, -1, 2, BLOCK // 2)
    packed = nibbles[:, :, 0] | nibbles[:, :, 1] << 4
    return np.concatenate((halves[..., None].view(np.uint8), packed), axis=-1).reshape(rows, -1)


def unpack(packed: Bytes | Floats | NDArray[np.float16], form: str) -> Floats:
    """What the runtime makes of it."""
    if form in ("f32", "f16"):
        return packed.astype(np.float32)
    source = np.ascontiguousarray(packed)
    rows, width = source.shape[0], source.shape[1] * _block(form)[0] // _block(form)[1]
    target = np.empty((rows, width), np.float32)
    function = getattr(_library(), f"dequantize_row_{form.replace('_k', '_K')}")
    function(
        ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(target.ctypes.data), ctypes.c_int64(target.size)
    )
    return target


def _block(form: str) -> tuple[int, int]:
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind_of(form)]
    return int(block), int(size)


@cache
def _library() -> ctypes.CDLL:
    """The runtime's library, as a library of functions."""
    import importlib.util

    found = importlib.util.find_spec("xllamacpp")
    files = sorted(Path(found.origin).parent.glob("xllamacpp*.so")) if found and found.origin else []
    if not files:
        raise ConfigError(
            "engine-unfit",
            "cannot quantize: the engine xllamacpp is not installed",
            hint="Install Atoll's dependencies anew.",
        )
    library = ctypes.CDLL(str(files[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library
