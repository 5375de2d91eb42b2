"""Reads the answer of an embeddings endpoint."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll.domain.errors import LinkError
from atoll.runtimes.contract import Embeddings


def of_answer(answer: Any, texts: int) -> Embeddings:
    """One vector per text, in the order of the texts, whatever length the engine gave them."""
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        vectors = np.stack([_vector(row["embedding"]) for row in rows])
        tokens = int((answer.get("usage") or {}).get("prompt_tokens") or 0)
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(f"It has no list of vectors: {error}.") from None
    if len(vectors) != texts or not np.isfinite(vectors).all():
        raise _malformed(f"It has {len(vectors)} vectors for {texts} texts, or values that are not finite.")
    return Embeddings(normalized(vectors), tokens)


def joined(parts: Sequence[Embeddings]) -> Embeddings:
    """The answers for several stretches of texts, as one."""
    return Embeddings(np.concatenate([part.vectors for part in parts]), sum(part.tokens for part in parts))


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of length one; a row of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _vector(value: Any) -> NDArray[np.float32]:
    if isinstance(value, str):
        return np.frombuffer(base64.b64decode(value), np.dtype("<f4"))
    return np.asarray(value, np.float32)


def _malformed(detail: str) -> LinkError:
    return LinkError("runtime-broken", "could not read the engine's vectors", detail=detail)
