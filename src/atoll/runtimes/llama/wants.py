"""What is asked of a llama.cpp engine, checked before it reaches one. Pure.

The engine aborts or never returns on numbers that make no sense (no threads, no batch, a huge context), so
none passes here. What a request may ask is bodies.py's, what to make of an exit course.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atoll.domain.errors import ConfigError
from atoll.domain.models import ADAPTERS_MAX, Skill

BATCH_TOKENS = 128  # small, so that somebody who leaves while the prompt is read is noticed soon
CONTEXT_TOKENS_MAX = 1 << 20  # of all requests together
EMBED_TOKENS_MAX = 8192  # a text is one batch
PARALLEL_MAX = 64
CACHE_TYPES = ("f16", "q8_0", "q4_0")
POOLINGS = ("model", "mean", "cls", "last")


@dataclass(frozen=True)
class Worker:
    """Who holds some of the layers, and where it is reached. The output counts as a layer, the last."""

    socket: Path
    layers: int


@dataclass(frozen=True)
class Wants:
    """How a model is to be loaded."""

    name: str = ""  # what answers call the model; by default the file's name
    skill: Skill = Skill.GENERATE
    context_tokens: int = 4096  # of one request
    parallel: int = 4  # requests at once
    waiting: int = 32  # requests that wait for their turn
    threads: int | None = None  # by default one less than there are cores
    adapters: Mapping[str, Path] = field(default_factory=dict)
    cache_type: str = "f16"  # of keys and values: q8_0 halves their memory
    prompt_cache_mib: int = 0  # prompts kept outside of the slots; never with adapters
    pooling: str = "model"  # how the vectors of a text's tokens become one
    library: Path | None = None  # the engine's arithmetic, built for this processor
    workers: tuple[Worker, ...] = ()  # with the layers that are not held here, in their order
    plugin: Path | None = None  # reaches the workers


@dataclass(frozen=True)
class Patience:
    """How long the engine may take before it counts as hung."""

    queue_seconds: float = 60.0
    silence_seconds: float = 120.0
    ask_every_seconds: float = 5.0
    answer_seconds: float = 60.0


def check(wants: Wants) -> None:
    """Refuse what the engine could not run with."""
    total = wants.context_tokens * wants.parallel
    for what, value, low, high in (
        ("parallel", wants.parallel, 1, PARALLEL_MAX),
        ("waiting", wants.waiting, 0, 1024),
        ("context_tokens", wants.context_tokens, 256, CONTEXT_TOKENS_MAX),
        ("context_tokens of all requests", total, 256, CONTEXT_TOKENS_MAX),
        ("threads", 1 if wants.threads is None else wants.threads, 1, 256),
        ("prompt_cache_mib", wants.prompt_cache_mib, 0, 65536),
        ("number of adapters", len(wants.adapters), 0, ADAPTERS_MAX),
    ):
        if not low <= value <= high:
            raise _unfit(f"its {what} is {value:,}", f"It may be {low:,} to {high:,}.")
    if wants.cache_type not in CACHE_TYPES:
        raise _unfit(f'its cache_type is "{wants.cache_type}"', f"It may be {', '.join(CACHE_TYPES)}.")
    if wants.pooling not in POOLINGS:
        raise _unfit(f'its pooling is "{wants.pooling}"', f"It may be {', '.join(POOLINGS)}.")
    if wants.skill not in (Skill.GENERATE, Skill.EMBED):
        raise _unfit(f'its skill is "{wants.skill}"', "A GGUF file can generate or embed.")
    if wants.skill is Skill.EMBED and wants.context_tokens > EMBED_TOKENS_MAX:
        raise _unfit(f"its context_tokens are {wants.context_tokens:,}", f"At most {EMBED_TOKENS_MAX:,}.")


def _unfit(problem: str, hint: str) -> ConfigError:
    return ConfigError("runtime-settings", f"cannot load the model: {problem}", hint=hint)


def settings_for_child(file: Path, wants: Wants, socket: Path, cores: int) -> dict[str, Any]:
    """Everything that the child is told."""
    embeds = wants.skill is Skill.EMBED
    return {
        "model": str(file),
        "name": wants.name or file.stem,
        "socket": str(socket),
        "context": wants.context_tokens * wants.parallel,
        "parallel": wants.parallel,
        "batch": wants.context_tokens if embeds else BATCH_TOKENS,
        "threads": wants.threads or max(1, cores - 1),
        "http_threads": wants.parallel + 4,
        "adapters": [str(path) for path in wants.adapters.values()],
        "cache_type": wants.cache_type,
        "prompt_cache_mib": 0 if wants.adapters else wants.prompt_cache_mib,
        "embeds": embeds,
        "pooling": wants.pooling,
        "plugin": str(wants.plugin),
        "workers": [{"socket": str(one.socket), "layers": one.layers} for one in wants.workers],
    }
