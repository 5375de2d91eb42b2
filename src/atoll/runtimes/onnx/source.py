"""Which file the engine is given: an ONNX file as it is, or a graph made from an encoder's safetensors."""

from __future__ import annotations

from pathlib import Path

from atoll.runtimes.onnx.bert import make_graph
from atoll.runtimes.onnx.refusals import unusable

SHARED = "model.safetensors"


def is_onnx(path: Path) -> bool:
    """A file, or a folder with one."""
    return path.suffix == ".onnx" or (path.is_dir() and any(path.glob("*.onnx")))


def find_model(path: Path) -> tuple[Path | bytes, int]:
    """The model, and how many bytes its weights take."""
    file = _the_one(path) if path.is_dir() else path
    try:
        size = sum(beside.stat().st_size for beside in file.parent.glob(f"{file.stem}*") if beside.is_file())
        if file.name != SHARED:
            file.open("rb").close()
            return file, size
    except OSError as error:
        raise unusable(path.name, f"it cannot be read: {error.strerror}") from error
    return make_graph(file.parent), size


def _the_one(folder: Path) -> Path:
    files = sorted([*folder.glob("*.onnx"), *folder.glob("onnx/model.onnx")])
    if len(files) > 1:
        raise unusable(folder.name, f"the folder holds {len(files)} ONNX files", "Name one of them.")
    if not files and not (folder / SHARED).is_file():
        raise unusable(folder.name, "the folder holds no ONNX file")
    return files[0] if files else folder / SHARED
