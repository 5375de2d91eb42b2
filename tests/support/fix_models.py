"""Models that are small enough to be written by the tests themselves: random weights from a seed.

The language model speaks words of a vocabulary that is made here and never ends by itself when it is asked
without temperature, so that a test can leave in the middle. Its adapters change what it says.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

MODEL_SEED = 11
ADAPTER_SEEDS = {"reef": 23, "tide": 37}
WIDTH, HEADS, LAYERS, INNER, CONTEXT = 64, 4, 2, 128, 4096
WORDS = 256
RANK = 4
SYLLABLES = ("ka", "lo", "mi", "nu", "pe", "ra", "si", "to", "vu", "wa")
CONTROL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{{ message.content if message.content is string else '' }}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}"
)
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class TinyModel:
    """A language model of half a megabyte, and two adapters for it."""

    file: Path
    adapters: dict[str, Path]


def _words(chance: random.Random) -> list[str]:
    """Words without repetition, each with a space before it."""
    found: dict[str, None] = {}
    while len(found) < WORDS:
        found["▁" + "".join(chance.choices(SYLLABLES, k=chance.randint(1, 4)))] = None
    return list(found)


def _vocabulary(writer: gguf.GGUFWriter, seed: int) -> tuple[int, int]:
    """Write the tokens; how many there are, and the first of the words."""
    words = _words(random.Random(seed))
    letters = [letter for letter in map(chr, range(32, 127)) if letter != " "]
    tokens = [*CONTROL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * (len(CONTROL) - 1)]
    kinds += [gguf.TokenType.BYTE] * 256
    first_word = len(tokens)
    tokens += [word for word in words if word not in tokens]
    kinds += [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(number) for number in range(len(tokens))])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(CONTROL.index("<|im_end|>"))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)
    return len(tokens), first_word


def write_model(file: Path, seed: int = MODEL_SEED, width: int = WIDTH, layers: int = LAYERS) -> None:
    """A model of llama's architecture. Only words have weight at its end, so that it speaks in words."""
    chance = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    size, first_word = _vocabulary(writer, seed)
    writer.add_vocab_size(size)

    def weights(rows: int, columns: int) -> Weights:
        return chance.normal(0.0, columns**-0.5, (rows, columns)).astype(np.float32)

    last = weights(size, width)
    last[:first_word] = 0.0
    writer.add_tensor("token_embd.weight", weights(size, width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    writer.add_tensor("output.weight", last * 4)
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(width, width) * 2)
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", weights(2 * width, width) * 2)
        writer.add_tensor(f"blk.{layer}.ffn_down.weight", weights(width, 2 * width) * 2)
    _finish(writer)


def write_adapter(
    file: Path,
    seed: int,
    width: int = WIDTH,
    layers: int = LAYERS,
    inner: int | None = None,
    architecture: str = "llama",
    kind: type[np.floating[Any]] = np.float32,
) -> None:
    """An adapter that turns what the layers hand on."""
    chance = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(layers):
        name = f"blk.{layer}.ffn_down.weight"
        writer.add_tensor(f"{name}.lora_a", chance.normal(0, 0.3, (RANK, inner or 2 * width)).astype(kind))
        writer.add_tensor(f"{name}.lora_b", chance.normal(0, 1.0, (width, RANK)).astype(kind))
    _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """A language model and its adapters; the seeds are in this file."""
    folder = tmp_path_factory.mktemp("tiny-gguf")
    write_model(folder / "tiny.gguf")
    adapters = {name: folder / f"{name}.gguf" for name in ADAPTER_SEEDS}
    for name, seed in ADAPTER_SEEDS.items():
        write_adapter(adapters[name], seed)
    return TinyModel(folder / "tiny.gguf", adapters)
