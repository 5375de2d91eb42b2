"""Vectors of texts from a model that reads tokens: cut into tokens, run in groups of like length, pooled.

Which tokens, how many, and how their vectors become one is said by files beside the model, as Sentence
Transformers writes them. A text with more tokens than the model reads is refused: cut short without a word,
its end could never be found again. The tokenizer is that of the optional package `tokenizers`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from atoll.runtimes.contract import Array, Embeddings
from atoll.runtimes.onnx.refusals import refused, unusable
from atoll.runtimes.onnx.wants import Wants

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from atoll.runtimes.onnx.engine import Engine

READS = {"input_ids", "attention_mask"}
TOKENIZER = "tokenizer.json"
GROUP_TEXTS_MAX = 32
TOKENS_MAX = 512
SIDE_BYTES_MAX = 4 * 1024**2
MEAN, FIRST = "pooling_mode_mean_tokens", "pooling_mode_cls_token"
POOLINGS = (MEAN, FIRST)
Run = Callable[[Mapping[str, Array], Sequence[str]], Awaitable[dict[str, Array]]]


def find_encoder(folder: Path, engine: Engine, wants: Wants) -> Encoder | None:
    """None where the model does not read text."""
    if not {facts.name for facts in engine.inputs} >= READS or not (folder / TOKENIZER).is_file():
        return None
    try:
        reading = read_reading(folder, wants.tokens_max)
    except ImportError:
        return None
    return Encoder(reading, engine, wants.texts_max)


@dataclass(frozen=True)
class Reading:
    """How an encoder reads: what cuts text for it, how many tokens, and how their vectors become one."""

    tokenizer: Tokenizer
    tokens_max: int
    pooling: str


def read_reading(folder: Path, tokens_max: int | None = None) -> Reading:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        bounds = (
            tokens_max,
            _told(folder / "sentence_bert_config.json").get("max_seq_length"),
            _told(folder / "config.json").get("max_position_embeddings"),
            TOKENS_MAX,
        )
        pooling = _told(folder / "1_Pooling" / "config.json") or {MEAN: True}
        chosen = [
            name for name, value in pooling.items() if name.startswith("pooling_mode") and value is True
        ]
        tokens_max = min(bound for bound in bounds if type(bound) is int and bound > 0)
    except Exception as error:  # the tokenizer raises Exception itself
        raise unusable(folder.name, f"its tokenizer or what is beside it is damaged: {error}") from error
    if len(chosen) != 1 or chosen[0] not in POOLINGS:
        raise unusable(folder.name, f"its vectors are pooled by {', '.join(chosen) or 'nothing'}")
    return Reading(tokenizer, tokens_max, chosen[0])


class Encoder:
    def __init__(self, reading: Reading, engine: Engine, texts_max: int) -> None:
        self._reading = reading
        self._texts_max = texts_max
        self._inputs = {facts.name: facts.datatype.lower() for facts in engine.inputs}
        known = {facts.name: facts for facts in engine.outputs}
        output = known.get("sentence_embedding") or known.get("last_hidden_state") or engine.outputs[0]
        self._output = output.name
        self.dimensions = output.shape[-1] if output.shape[-1:] > (0,) else None

    @property
    def tokens_max(self) -> int:
        return self._reading.tokens_max

    async def embed(self, texts: Sequence[str], run: Run) -> Embeddings:
        if not texts or len(texts) > self._texts_max:
            raise refused(f"{len(texts)} texts were given", f"One to {self._texts_max} may be.")
        if not all(isinstance(text, str) for text in texts):
            raise refused("what was given is not text", "Each element has to be a text.")
        tokens = await asyncio.to_thread(self._cut, texts)
        order = sorted(range(len(texts)), key=lambda at: len(tokens[at]))
        vectors: NDArray[np.float32] | None = None
        for begin in range(0, len(order), GROUP_TEXTS_MAX):
            group = order[begin : begin + GROUP_TEXTS_MAX]
            found = await self._run([tokens[at] for at in group], run)
            if vectors is None:
                vectors = np.empty((len(texts), found.shape[1]), np.float32)
            vectors[group] = found
        assert vectors is not None
        return Embeddings(vectors, sum(map(len, tokens)))

    def _cut(self, texts: Sequence[str]) -> list[list[int]]:
        found = [list(cut.ids) for cut in self._reading.tokenizer.encode_batch(list(texts))]
        for number, tokens in enumerate(found, 1):
            if len(tokens) > self.tokens_max:
                raise refused(
                    f"text {number} has {len(tokens)} tokens, and the model reads {self.tokens_max}",
                    "Cut it into pieces, and ask for a vector of each.",
                )
            if not tokens:
                raise refused(f"text {number} has no tokens", "Leave it out.")
        return found

    async def _run(self, tokens: list[list[int]], run: Run) -> NDArray[np.float32]:
        ids = np.zeros((len(tokens), max(map(len, tokens))), np.int64)
        mask = np.zeros_like(ids)
        for row, found in enumerate(tokens):
            ids[row, : len(found)] = found
            mask[row, : len(found)] = 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        inputs = {name: given[name].astype(kind) for name, kind in self._inputs.items() if name in given}
        outputs = await run(inputs, [self._output])
        return _unit(self._pool(outputs[self._output].astype(np.float32), mask))

    def _pool(self, hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        if hidden.ndim == 2:
            return hidden
        if self._reading.pooling == FIRST:
            return hidden[:, 0]
        weights = mask[:, :, None].astype(np.float32)
        return np.asarray((hidden * weights).sum(axis=1) / weights.sum(axis=1), np.float32)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _told(path: Path) -> dict[str, Any]:
    """What a file beside the model says; nothing where it is not there."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        found = json.loads(file.read(SIDE_BYTES_MAX))
    return found if isinstance(found, dict) else {}
