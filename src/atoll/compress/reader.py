"""The process that reads rows of tokens with the runtime and says how surprised the model was by each.

Run as a file; it imports nothing of Atoll. Asked over HTTP, the runtime tells no probabilities of a prompt,
so its library is called directly: of its structures only the four numbers that the context's begin with are
touched, and they have to be what this was written for. What it is told comes as JSON on standard input; the
answer is JSON.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

UNUSABLE, OTHER_ENGINE = 3, 4
STARTS_WITH = (512, 2048, 512, 1)  # tokens of context, of a batch, of a step; sequences


class Whole(ctypes.Structure):
    """A structure that is handed through as it is; larger than any that there is."""

    _fields_ = [("bytes", ctypes.c_uint32 * 256)]


class Batch(ctypes.Structure):
    _fields_ = [
        ("count", ctypes.c_int32),
        ("tokens", ctypes.POINTER(ctypes.c_int32)),
        ("vectors", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("sequence_counts", ctypes.c_void_p),
        ("sequences", ctypes.c_void_p),
        ("wanted", ctypes.POINTER(ctypes.c_int8)),
    ]


def main() -> int:
    told = json.load(sys.stdin)
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["GGML_NO_BACKTRACE"] = "1"
    library = open_library()
    library.llama_backend_init()
    model = library.llama_model_load_from_file(told["model"].encode(), library.llama_model_default_params())
    if not model:
        return UNUSABLE
    vocabulary = library.llama_model_get_vocab(model)
    answer: dict[str, Any] = {"cut": [cut(library, vocabulary, text) for text in told["texts"]]}
    if told["rows"]:
        context = make_context(library, model, max(len(row) for row in told["rows"]), told["threads"])
        if not context:
            return OTHER_ENGINE
        pieces = library.llama_vocab_n_tokens(vocabulary)
        before, began = time.process_time(), time.monotonic()
        answer["lost"] = [surprise(library, context, row, pieces) for row in told["rows"]]
        answer["cpu_seconds"] = time.process_time() - before
        answer["seconds"] = time.monotonic() - began
    pages = int(Path("/proc/self/statm").read_text().split()[1]) if sys.platform == "linux" else 0
    answer["resident_bytes"] = pages * os.sysconf("SC_PAGE_SIZE")
    json.dump(answer, sys.stdout)
    return 0


def open_library() -> Any:
    found = importlib.util.find_spec("xllamacpp")
    if found is None or found.origin is None:
        sys.exit(OTHER_ENGINE)
    library = ctypes.CDLL(str(next(Path(found.origin).parent.glob("xllamacpp*.so"))))
    for name, gives in (
        ("llama_model_default_params", Whole),
        ("llama_context_default_params", Whole),
        ("llama_model_load_from_file", ctypes.c_void_p),
        ("llama_init_from_model", ctypes.c_void_p),
        ("llama_model_get_vocab", ctypes.c_void_p),
        ("llama_get_memory", ctypes.c_void_p),
        ("llama_get_logits", ctypes.POINTER(ctypes.c_float)),
    ):
        getattr(library, name).restype = gives
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, Whole]
    library.llama_init_from_model.argtypes = [ctypes.c_void_p, Whole]
    library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    library.llama_vocab_n_tokens.argtypes = [ctypes.c_void_p]
    library.llama_set_n_threads.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32]
    library.llama_get_memory.argtypes = [ctypes.c_void_p]
    library.llama_memory_clear.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    library.llama_decode.argtypes = [ctypes.c_void_p, Batch]
    library.llama_get_logits.argtypes = [ctypes.c_void_p]
    library.llama_tokenize.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_int32,
        ctypes.POINTER(ctypes.c_int32),
        ctypes.c_int32,
        ctypes.c_bool,
        ctypes.c_bool,
    ]
    return library


def make_context(library: Any, model: int, length: int, threads: int) -> int | None:
    params = library.llama_context_default_params()
    if tuple(params.bytes[:4]) != STARTS_WITH:
        return None
    params.bytes[0] = params.bytes[1] = max(256, length)
    context: int | None = library.llama_init_from_model(model, params)
    if context:
        library.llama_set_n_threads(context, threads, threads)
    return context


def cut(library: Any, vocabulary: int, text: str) -> list[int]:
    told = text.encode()
    room = (ctypes.c_int32 * (len(told) + 8))()
    count = library.llama_tokenize(vocabulary, told, len(told), room, len(room), False, False)
    return list(room[: max(0, count)])


def surprise(library: Any, context: int, row: list[int], pieces: int) -> float:
    """The sum over a row of how unlikely each next token was; its first is given."""
    count = len(row) - 1
    library.llama_memory_clear(library.llama_get_memory(context), True)
    tokens, wanted = (ctypes.c_int32 * count)(*row[:-1]), (ctypes.c_int8 * count)(*([1] * count))
    if library.llama_decode(context, Batch(count, tokens, None, None, None, None, wanted)) != 0:
        sys.exit(UNUSABLE)
    logits = np.ctypeslib.as_array(library.llama_get_logits(context), (count, pieces)).astype(np.float64)
    highest = logits.max(axis=1)
    total = np.log(np.exp(logits - highest[:, None]).sum(axis=1)) + highest
    return float((total - logits[np.arange(count), row[1:]]).sum())


if __name__ == "__main__":
    sys.exit(main())
