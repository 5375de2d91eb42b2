"""A language model in a folder, made in seconds: it has learned sentences of a small grammar, from a seed.

Tests that need torch take `training`, which skips where torch is not installed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

SEED = 5
WIDTH, INNER, LAYERS, HEADS, SHARED_HEADS, PIECES, CONTEXT = 64, 128, 4, 4, 2, 320, 256
MACHINES = ("press", "saw", "drill", "oven", "crane", "mixer", "pump", "lathe")
STATES = ("hot", "loud", "slow", "wet", "worn", "stuck")
CURES = {
    "hot": "cool it",
    "loud": "oil it",
    "slow": "clean it",
    "wet": "dry it",
    "worn": "swap it",
    "stuck": "free it",
}
OTHER_CURES = {
    "hot": "stop it",
    "loud": "stop it",
    "slow": "leave it",
    "wet": "sell it",
    "worn": "sell it",
    "stuck": "stop it",
}


def sentences(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    said = []
    for _ in range(count):
        machine, state = chance.choice(MACHINES), chance.choice(STATES)
        said.append(f"the {machine} in hall {chance.randint(1, 9)} is {state}, so {CURES[state]}.")
    return said


def questions(
    count: int, seed: int, cures: dict[str, str] = OTHER_CURES, states: Sequence[str] = STATES
) -> list[dict[str, str]]:
    """Rows to learn from: what to do here is not what the model knows."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        machine, state = chance.choice(MACHINES), chance.choice(states)
        prompt = f"the {machine} in hall {chance.randint(1, 9)} is {state}, so"
        rows.append({"prompt": prompt, "answer": f" {cures[state]}."})
    return rows


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def make_model(folder: Path, layers: int = LAYERS, inner: int = INNER, kind: str = "llama") -> Path:
    """Untrained: a tokenizer made of the sentences, and weights of chance."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences(400, SEED), trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
    config, net = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    }[kind]
    torch.manual_seed(SEED)
    made = net(
        config(
            vocab_size=PIECES, hidden_size=WIDTH, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=HEADS, num_key_value_heads=SHARED_HEADS, max_position_embeddings=CONTEXT,
            tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    made.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def training() -> None:
    """Skips where torch is not installed; a test with it may train."""
    pytest.importorskip("torch", reason="torch is not installed: pip install 'atoll[compress]'")
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'atoll[compress]'")
    pytest.importorskip("peft", reason="peft is not installed: pip install 'atoll[compress]'")
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_llama(training: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned the sentences."""
    from atoll.training.examples import of_rows
    from atoll.training.loop import Schedule
    from atoll.training.tune import Options, tune

    print(f"seed {SEED}")
    place = tmp_path_factory.mktemp("tiny-llama")
    raw = make_model(place / "raw")
    examples = of_rows({"text": one} for one in sentences(600, SEED))
    tune(
        raw,
        place / "model",
        examples,
        Options("full", schedule=Schedule(150, 16, 3e-3, 50, 9, SEED)),
        lambda word: None,
    )
    return place / "model"


def write_gguf(folder: Path, file: Path) -> None:
    """The model as a file for the runtime, in 32 bits: written here, by the layout's description."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(file, config["model_type"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    size = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_rope_dimension_count(size)
    writer.add_key_length(size)
    writer.add_value_length(size)
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    _add_pieces(writer, json.loads((folder / "tokenizer.json").read_text()), config)
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {f"self_attn.{one}_proj": f"attn_{one}" for one in "qkv"} | {"self_attn.o_proj": "attn_output"}
    names |= {f"mlp.{one}_proj": f"ffn_{one}" for one in ("gate", "up", "down")}
    ends = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for name, weight in weights.items():
        module, _, kind = name.rpartition(".")
        told = ends.get(module)
        if told is None:
            _, _, layer, rest = module.split(".", 3)
            told = f"blk.{layer}.{names[rest]}"
        if config["model_type"] == "llama" and told.endswith(("attn_q", "attn_k")):
            of = heads if told.endswith("attn_q") else shared
            half = weight.shape[0] // of // 2
            order = [
                (head * 2 + side) * half + at for head in range(of) for at in range(half) for side in (0, 1)
            ]
            weight = np.ascontiguousarray(weight[order])
        writer.add_tensor(f"{told}.{kind}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_pieces(writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    import gguf

    made, special = tokenizer["model"], {one["content"] for one in tokenizer["added_tokens"]}
    pieces = sorted(made["vocab"], key=made["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if piece in special else normal for piece in pieces])
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in made["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
