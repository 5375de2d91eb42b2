"""An encoder that learns to give the vectors that another one gives: by the angle between them.

Texts are cut and vectors pooled as the runtime does both (runtimes/onnx/encoder.py), so that what is learned
is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from atoll.domain.errors import DataError
from atoll.runtimes.onnx.encoder import FIRST, TOKENIZER, Reading, read_reading
from atoll.training.batches import Row, stacked
from atoll.training.examples import Example
from atoll.training.folder import ENCODERS, check_whole, read_config
from atoll.training.loop import Task

JUDGED_AT_ONCE = 32
PARTS = {"add_pooling_layer": False}  # BERT's own pooling, which nobody reads


@dataclass(frozen=True)
class Encoder:
    net: Any
    reading: Reading


def load_encoder(folder: Path) -> Encoder:
    """Without what would be left to chance while it learns (dropout): a vector is imitated, not a text."""
    read_config(folder, ENCODERS)
    import torch
    from transformers import AutoModel

    if not (folder / TOKENIZER).is_file():
        raise DataError("model-untrainable", f"{folder} has no {TOKENIZER}")
    reading = read_reading(folder)
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    words: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, **PARTS}
    try:
        net = AutoModel.from_pretrained(folder, **words, **still)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise DataError("model-untrainable", f"could not load {folder}", detail=f"{error}.") from error
    check_whole(net, reading.tokenizer.get_vocab_size(), folder)
    return Encoder(net, reading)


def encode(reading: Reading, examples: Sequence[Example], tokens_max: int) -> list[Row]:
    """A prompt and its answer are two texts; each is read as far as the encoder reads."""
    texts = [text for one in examples for text in (one.prompt, one.answer) if text.strip()]
    bound = min(tokens_max, reading.tokens_max)
    reading.tokenizer.enable_truncation(bound)
    cuts = reading.tokenizer.encode_batch(texts)
    reading.tokenizer.no_truncation()
    return [Row(tuple(cut.ids), 0) for cut in cuts]


def imitation(teacher: Encoder) -> Task:
    """How far its vectors are from the teacher's: 1 less the cosine."""
    import torch

    teacher.net.eval()

    def told(batch: dict[str, Any]) -> Any:
        with torch.no_grad():
            return vectors(teacher.net, batch, teacher.reading.pooling)

    def apart(net: Any, batch: dict[str, Any], wanted: Any) -> Any:
        return 1 - (vectors(net, batch, teacher.reading.pooling) * wanted).sum(-1).mean()

    @cache
    def known(rows: tuple[Row, ...]) -> list[tuple[dict[str, Any], Any]]:
        batches = [stacked(rows[at : at + JUDGED_AT_ONCE]) for at in range(0, len(rows), JUDGED_AT_ONCE)]
        return [(batch, told(batch)) for batch in batches]

    def judge(net: Any, rows: Sequence[Row]) -> float:
        net.eval()
        ordered = tuple(sorted(rows, key=lambda row: len(row.tokens)))
        with torch.no_grad():
            parts = [float(apart(net, *one)) * len(one[1]) for one in known(ordered)]
        return sum(parts) / len(rows)

    return Task(lambda net, batch: apart(net, batch, told(batch)), judge)


def vectors(net: Any, batch: dict[str, Any], pooling: str) -> Any:
    """One for each row, of length 1."""
    from torch.nn import functional

    seen = batch["attention_mask"]
    hidden = net(input_ids=batch["input_ids"], attention_mask=seen).last_hidden_state
    if pooling == FIRST:
        return functional.normalize(hidden[:, 0], dim=-1)
    return functional.normalize((hidden * seen[:, :, None]).sum(1), dim=-1)
