"""Which engine runs which format, with what this node, or a command without one, can give it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atoll.domain.errors import ConfigError, DataError
from atoll.domain.models import Skill
from atoll.node.home import Home
from atoll.registry.formats.read import read_model
from atoll.registry.manifest import Upstream
from atoll.runtimes.contract import Facts, Runtime
from atoll.runtimes.llama import native

if TYPE_CHECKING:
    from atoll.node.borrowing import Borrowing
    from atoll.runtimes.llama.wants import Wants

PARALLEL = 4
CONTEXT_TOKENS = 4096


def open_runtime(
    home: Home,
    model: str,
    form: str,
    file: Path,
    said: Facts,
    options: Mapping[str, Any],
    adapters: Mapping[str, Path],
) -> Runtime:
    """A runtime for a model, not started yet."""
    if form == "gguf":
        library = native.library_in(home.native)
        return _llama(*_places(home, model), model, file, said, options, adapters, library)
    return _onnx(model, form, file)


def open_file(path: Path, folder: Path, options: Mapping[str, Any], library: Path | None = None) -> Runtime:
    """A runtime for files that no node has; what its engine leaves behind is in a folder of the caller's."""
    found = read_model(path)
    if not found.skills:
        raise DataError("model-no-skill", f'cannot serve "{path.name}" by itself')
    said = Facts(skills=found.skills, memory_bytes=0, context_tokens=found.context_tokens)
    file = path
    if found.format == "gguf" and path.is_dir():
        file = next(path.glob("*.gguf"))
    elif found.format == "safetensors" and path.is_dir():
        file = path / "model.safetensors"
    if found.format == "gguf":
        return _llama(folder, folder / "engine.log", "model", file, said, options, {}, library)
    return _onnx("model", found.format, file)


def open_split(
    home: Home,
    borrowing: Borrowing,
    model: str,
    file: Path,
    needs_bytes: int,
    token_bytes: int,
    said: Facts,
    options: Mapping[str, Any],
    adapters: Mapping[str, Path],
) -> Runtime:
    """A runtime for one that is too large for this node: `said` is what it may take here."""
    from atoll.node import layers
    from atoll.runtimes.llama.split.runtime import SplitRuntime

    context, parallel = room_of(said.context_tokens, options)
    needs = layers.needs(file, needs_bytes, token_bytes * context * parallel)
    folder, log = _places(home, model)
    return SplitRuntime(
        file,
        _wants(model, said, options, adapters, native.library_in(home.native)),
        lambda: borrowing.borrow(model, needs, said.memory_bytes, folder),
        folder=folder,
        log=log,
    )


def _places(home: Home, model: str) -> tuple[Path, Path]:
    """Where an engine's sockets are, and its log."""
    folder = home.run / "models"
    folder.mkdir(exist_ok=True, mode=0o700)
    return folder, home.logs / f"model-{model}.log"


def _llama(
    folder: Path,
    log: Path,
    model: str,
    file: Path,
    said: Facts,
    options: Mapping[str, Any],
    adapters: Mapping[str, Path],
    library: Path | None,
) -> Runtime:
    from atoll.runtimes.llama.runtime import LlamaRuntime

    return LlamaRuntime(file, _wants(model, said, options, adapters, library), folder=folder, log=log)


def _wants(
    model: str,
    said: Facts,
    options: Mapping[str, Any],
    adapters: Mapping[str, Path],
    library: Path | None,
) -> Wants:
    from atoll.runtimes.llama.wants import Wants

    context, parallel = room_of(said.context_tokens, options)
    return Wants(
        name=model,
        skill=Skill.EMBED if Skill.EMBED in said.skills else Skill.GENERATE,
        context_tokens=context,
        parallel=parallel,
        adapters=adapters,
        library=library,
    )


def _onnx(model: str, form: str, file: Path) -> Runtime:
    if form in ("onnx", "safetensors"):
        from atoll.runtimes.onnx.runtime import OnnxRuntime

        return OnnxRuntime(file if form == "onnx" else file.parent)
    raise ConfigError("format-not-served", f'no engine here runs model "{model}" as {form}')


def open_upstream(upstream: Upstream, skills: frozenset[Skill], key: str | None) -> Runtime:
    """A runtime for a model of somebody else's server."""
    from atoll.runtimes.upstream import Address, UpstreamRuntime

    return UpstreamRuntime(Address(upstream.base, upstream.model, key, skills=skills))


def room_of(trained: int | None, options: Mapping[str, Any]) -> tuple[int, int]:
    """Tokens of context for each caller, as far as the model knows them, and callers at once."""
    context = _whole(options.get("context_tokens"), CONTEXT_TOKENS)
    return min(context, trained or context), _whole(options.get("parallel"), PARALLEL)


def _whole(told: Any, usual: int) -> int:
    """Options come from rows, and so from other nodes."""
    return told if type(told) is int and told > 0 else usual
