"""Small decoders as model folders: weights by chance, from a seed, and a tokenizer of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs import pages

TEXT = pages.ROOT / "docs" / "conflicts.md"
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"architectures": ["LlamaForCausalLM"]},
    "llama-untied": {
        "architectures": ["LlamaForCausalLM"],
        "tie_word_embeddings": False,
        "head_dim": 32,
        "rope_scaling": STRETCHED,
    },
    "qwen2": {"architectures": ["Qwen2ForCausalLM"]},
    "qwen3": {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32},
    "gemma": {
        "architectures": ["GemmaForCausalLM"],
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
    },
}


def save_decoder(folder: Path, kind: str = "llama", seed: int = 20_261, **more: Any) -> Path:
    import torch
    from safetensors.torch import save_file

    from atoll.compress.decoder import Decoder
    from atoll.compress.shape import read_shape

    config = {**SIZES, **KINDS[kind], **more}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder / "tokenizer.json", config["vocab_size"])
    torch.manual_seed(seed)
    decoder = Decoder(read_shape(config))
    for name, weight in decoder.named_parameters():
        middle = 1.0 if "norm" in name and kind != "gemma" else 0.0
        torch.nn.init.normal_(weight, mean=middle, std=0.15 if weight.ndim == 2 else 0.1)
    save_file(decoder.state_dict(), folder / "model.safetensors")
    return folder


def save_tokenizer(path: Path, pieces: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT.read_text("utf-8")], trainer)
    tokenizer.save(str(path))
