"""A model in ONNX behind the protocol of all runtimes: tensors, and vectors of texts where it reads text.

Puts together what is loaded (engine.py, encoder.py), what is refused at once (inputs.py) and where requests
wait (desk.py). ONNX Runtime and numpy are imported when the model is loaded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from atoll.domain.errors import DataError, LinkError
from atoll.domain.models import Skill
from atoll.runtimes.contract import Array, Ask, Embeddings, Facts
from atoll.runtimes.onnx.wants import Wants

if TYPE_CHECKING:
    from atoll.runtimes.onnx.desk import Desk
    from atoll.runtimes.onnx.encoder import Encoder
    from atoll.runtimes.onnx.engine import Engine, Loading, Stop

PAGE_BYTES = 4096


@dataclass(frozen=True)
class _Loaded:
    engine: Engine
    encoder: Encoder | None
    facts: Facts
    desk: Desk


class OnnxRuntime:
    """`file` is an ONNX file, or a folder that holds one, or a text encoder's folder of safetensors."""

    def __init__(self, file: Path, wants: Wants | None = None) -> None:
        self._file = file
        self._wants = wants or Wants()
        self._loaded: _Loaded | None = None

    async def start(self) -> Facts:
        from atoll.runtimes.onnx.desk import Desk
        from atoll.runtimes.onnx.engine import Loading, Stop

        loading, stop = Loading(self._wants), Stop()
        work = asyncio.ensure_future(asyncio.to_thread(_load, self._file, self._wants, loading, stop))
        try:
            engine, encoder, facts, merges = await asyncio.shield(work)
        except asyncio.CancelledError:
            loading.give_up()
            stop.now()
            await asyncio.wait({work})
            work.exception()
            raise
        self._loaded = _Loaded(engine, encoder, facts, Desk(engine, self._wants, merges=merges))
        return facts

    async def stop(self) -> None:
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            await loaded.desk.stop()

    async def ended(self) -> str:
        """It lives in this process and ends with it."""
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    def generate(self, ask: Ask) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        _missing("generate text")

    async def infer(self, inputs: Mapping[str, Array], wanted: Sequence[str] = ()) -> dict[str, Array]:
        from atoll.runtimes.onnx.inputs import check_inputs, check_outputs

        loaded = self._there()
        names = check_outputs(loaded.facts.outputs, wanted)
        return await loaded.desk.run(check_inputs(loaded.facts.inputs, inputs), names)

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        loaded = self._there()
        if loaded.encoder is None:
            _missing("make vectors of texts", "An encoder has a tokenizer.json, and needs atoll[encoders].")
        return await loaded.encoder.embed(texts, loaded.desk.run)

    def _there(self) -> _Loaded:
        if self._loaded is None:
            raise LinkError("runtime-broken", "the model is not loaded", hint="Ask again, or elsewhere.")
        return self._loaded


def _missing(what: str, hint: str = "Ask a model that is made for it.") -> NoReturn:
    raise DataError("skill-missing", f"the model cannot {what}", hint=hint)


def _load(
    file: Path, wants: Wants, loading: Loading, stop: Stop
) -> tuple[Engine, Encoder | None, Facts, bool]:
    """In a thread: load, warm up with one row, and try whether rows can be merged."""
    import numpy as np

    from atoll.runtimes.onnx.encoder import find_encoder
    from atoll.runtimes.onnx.engine import Engine
    from atoll.runtimes.onnx.merging import keeps_rows_apart, make_request
    from atoll.runtimes.onnx.said import read_said
    from atoll.runtimes.onnx.source import find_model

    before = _resident_bytes()
    model, weights_bytes = find_model(file)
    engine = Engine(model, file.name, loading)
    folder = file if file.is_dir() else file.parent
    encoder = find_encoder(folder, engine, wants)

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        return engine.run(inputs, [facts.name for facts in engine.outputs], stop)

    try:
        run(make_request(engine.inputs, 1, np.random.default_rng(0)))
    except DataError:
        merges = False  # not with such values; the first request is the first run
    else:
        merges = wants.merged_rows_max > 0 and keeps_rows_apart(engine.inputs, engine.outputs, run)
    skills = {Skill.INFER} | ({Skill.EMBED} if encoder else set())
    facts = Facts(
        skills=frozenset(skills),
        memory_bytes=max(weights_bytes, _resident_bytes() - before),
        context_tokens=encoder.tokens_max if encoder else None,
        dimensions=encoder.dimensions if encoder else None,
        inputs=tuple(engine.inputs),
        outputs=tuple(engine.outputs),
        details={
            **read_said(engine.metadata, folder),
            "merges": merges,
            "left_out": engine.left_out,
            "threads": wants.threads,
        },
    )
    return engine, encoder, facts, merges


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
