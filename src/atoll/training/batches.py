"""Examples as tokens, in batches: what is in which batch follows from the seed and the step alone."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from atoll.domain.errors import DataError
from atoll.training.examples import Example

IGNORED = -100  # the label of what is read and not learned


@dataclass(frozen=True)
class Row:
    """Tokens, of which the first so many are only read."""

    tokens: tuple[int, ...]
    read: int


def encode(tokenizer: Any, examples: Sequence[Example], tokens_max: int) -> list[Row]:
    """Plain text that is too long is cut into pieces; an answer that does not fit at all is left out."""
    rows: list[Row] = []
    for example in examples:
        if not example.prompt:
            rows += _pieces(tokenizer, example.answer, tokens_max)
            continue
        read, whole = _conversation(tokenizer, example)
        if len(read) < tokens_max:
            rows.append(Row(tuple(whole[:tokens_max]), len(read)))
    rows = [row for row in rows if len(row.tokens) > max(1, row.read)]
    if not rows:
        raise DataError(
            "examples-few",
            "no example has room for its answer",
            detail=f"A row may have {tokens_max} tokens.",
            hint="Allow more: --tokens",
        )
    return rows


def _pieces(tokenizer: Any, text: str, tokens_max: int) -> Iterator[Row]:
    tokens = [*_begin(tokenizer), *_plain(tokenizer, text), *_end(tokenizer)]
    for first in range(0, len(tokens), tokens_max):
        yield Row(tuple(tokens[first : first + tokens_max]), 0)


def _conversation(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """As the model's own template says it, where it has one: the served model is asked the same way."""
    if tokenizer.chat_template:
        asked = [{"role": "user", "content": example.prompt}]
        told = [*asked, {"role": "assistant", "content": example.answer}]
        read = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(told, tokenize=False)
        if whole.startswith(read):
            first = _plain(tokenizer, read)
            return first, [*first, *_plain(tokenizer, whole[len(read) :])]
    read = [*_begin(tokenizer), *_plain(tokenizer, example.prompt)]
    return read, [*read, *_plain(tokenizer, example.answer), *_end(tokenizer)]


def _plain(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def _begin(tokenizer: Any) -> list[int]:
    """As the tokenizer itself begins a text: whoever serves the model will not do otherwise."""
    first: list[int] = tokenizer("")["input_ids"][:1]
    return first if first == [tokenizer.bos_token_id] else []


def _end(tokenizer: Any) -> list[int]:
    return [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def chosen(count: int, batch: int, step: int, seed: int) -> list[int]:
    """The rows of a step: all of them once, in an order of chance, before any comes again."""
    first = step * batch
    return [_order(count, place // count, seed)[place % count] for place in range(first, first + batch)]


@lru_cache(maxsize=2)
def _order(count: int, epoch: int, seed: int) -> list[int]:
    return random.Random(f"{seed}:{epoch}").sample(range(count), count)  # noqa: S311


def stacked(rows: Sequence[Row]) -> dict[str, Any]:
    """Rows side by side, filled up at their ends."""
    import torch

    width = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    seen = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), IGNORED, dtype=torch.long)
    for number, row in enumerate(rows):
        length = len(row.tokens)
        tokens[number, :length] = torch.tensor(row.tokens)
        seen[number, :length] = 1
        labels[number, row.read : length] = tokens[number, row.read : length]
    return {"input_ids": tokens, "attention_mask": seen, "labels": labels}
