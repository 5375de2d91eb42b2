"""Which engine runs which format, with what this node can give it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.node.home import Home
from atoll.runtimes.contract import Runtime

AT_ONCE = {"gguf": 4, "onnx": 64}


def open_runtime(home: Home, model: str, form: str, file: Path, options: Mapping[str, Any]) -> Runtime:
    """A runtime for a model, not started yet."""
    if form == "onnx":
        from atoll.runtimes.onnx.runtime import OnnxRuntime

        return OnnxRuntime(file)
    raise ConfigError(
        "format-not-served",
        f'no engine here runs model "{model}" as {form}',
        hint="Convert it to GGUF or ONNX first.",
    )


def at_once(form: str, options: Mapping[str, Any]) -> int:
    """How many callers the engine answers at the same time."""
    return int(options.get("parallel") or AT_ONCE.get(form, 1))
