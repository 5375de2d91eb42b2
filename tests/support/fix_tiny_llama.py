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
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

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
    begun = ("<s>", tokenizer.token_to_id("<s>"))
    if kind == "llama":  # Qwen begins a text with nothing
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begun])
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
    from atoll.compress.quantize import export

    export(folder, file, {"to": "f32"}, lambda word: None)
