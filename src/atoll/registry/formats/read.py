"""The way in: a path, and what is found there, whichever format it is."""

from __future__ import annotations

from pathlib import Path

from atoll.registry.formats.found import Found, unusable
from atoll.registry.formats.gguf import MAGIC, read_gguf
from atoll.registry.formats.onnx import read_onnx
from atoll.registry.formats.safetensors import read_safetensors

FORMATS = "A model is a GGUF file, an ONNX file, or a folder of safetensors files."


def read_model(path: Path) -> Found:
    """Read a file, or a folder with one model in it. DataError `model-unusable` says what is wrong."""
    if path.suffix == ".safetensors" or (path.is_dir() and any(path.glob("*.safetensors"))):
        return read_safetensors(path)
    if path.is_dir():
        files = sorted([*path.glob("*.gguf"), *path.glob("*.onnx")])
        if len(files) != 1:
            raise unusable(path, f"the folder holds {len(files)} model files", hint=f"Name one. {FORMATS}")
        path = files[0]
    try:
        with path.open("rb") as file:
            begin = file.read(len(MAGIC))
    except OSError as error:
        raise unusable(path, f"it cannot be read: {error.strerror}", hint="Correct the path.") from error
    if begin == MAGIC:
        return read_gguf(path)
    if path.suffix == ".gguf":
        raise unusable(path, "it does not begin as a GGUF file does", hint=FORMATS)
    return read_onnx(path)
