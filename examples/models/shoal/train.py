"""Train Shoal, a small Llama as a model folder: something to compress, with no download.

    python train.py [--steps 1000] [--seed 7] [--out ../../../build/models/shoal]

It reads what comes with Python: its language reference, and the sources of its standard library. Run again,
it goes on from the last checkpoint. Beside the folder it writes calibration.txt (texts that it was trained
on) and held-out.txt (texts that it has never seen).
"""

from __future__ import annotations

import argparse
import json
import sysconfig
import time
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

from atoll.compress.decoder import Decoder
from atoll.compress.shape import read_shape

OUT = Path(__file__).resolve().parents[3] / "build" / "models" / "shoal"
END = "<|endoftext|>"
ROW, ROWS = 256, 16  # tokens in a row, rows in a batch
CHECKPOINT_STEPS = 50
HELD_OUT = 40  # every so many texts are never trained on
CALIBRATION = 60  # texts
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "torch_dtype": "float32",
}


def read_texts() -> list[str]:
    """The language reference by topics, and each module of the library."""
    library = Path(sysconfig.get_path("stdlib"))
    passed_over = {
        "site-packages",
        "test",
        "tests",
        "idlelib",
        "lib2to3",
        "idle_test",
        "pydoc_data",
        "encodings",
    }
    modules = [path for path in sorted(library.rglob("*.py")) if not passed_over & set(path.parts)]
    return [topics[name] for name in sorted(topics)] + [
        path.read_text("utf-8", "replace") for path in modules
    ]


def make_tokenizer(path: Path, texts: list[str]) -> Tokenizer:
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=CONFIG["vocab_size"],
            special_tokens=[END],
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def rows_of(tokenizer: Tokenizer, texts: list[str], random: np.random.Generator) -> np.ndarray:
    joined: list[int] = []
    for index in random.permutation(len(texts)):
        joined += [0, *tokenizer.encode(texts[index], add_special_tokens=False).ids]
    return np.array(joined[: len(joined) // ROW * ROW], np.int64).reshape(-1, ROW)


def start(decoder: Decoder, layers: int) -> None:
    for name, weight in decoder.named_parameters():
        if weight.ndim == 2:
            deep = name.endswith(("o_proj.weight", "down_proj.weight"))
            torch.nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5 if deep else 0.02)


def optimizers(decoder: Decoder) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, which it turns in far fewer steps; AdamW for the rest."""
    inner = [p for name, p in decoder.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in decoder.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(inner, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pace(step: int, steps: int) -> float:
    """The share of the learning rate: up over 40 steps, then down to nothing."""
    return min(1.0, (step + 1) / 40) * max(0.02, 1 - max(0.0, step / steps - 0.3) / 0.7)


def train(decoder: Decoder, rows: np.ndarray, steps: int, seed: int, kept: Path) -> None:
    made, first = optimizers(decoder), 0
    rates = [group["lr"] for optimizer in made for group in optimizer.param_groups]
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(len(rows)) for _ in range(steps * ROWS // len(rows) + 1)])
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        first = state["step"]
        decoder.load_state_dict(state["model"])
        for optimizer, saved in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        print(f"going on at step {first}")
    # Nearly half the time per step, on processors that have it.
    quick = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    began, mean = time.monotonic(), 0.0
    for step in range(first, steps):
        batch = torch.from_numpy(rows[order[step * ROWS : (step + 1) * ROWS]])
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            logits = decoder(batch[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        for optimizer, rate in zip(made, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * pace(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        mean = 0.9 * mean + 0.1 * loss.item() if mean else loss.item()
        if step % 10 == 9:
            left = (time.monotonic() - began) / (step - first + 1) * (steps - step - 1)
            print(f"step {step + 1}/{steps}  loss {mean:.3f}  {left / 60:.0f} min left", flush=True)
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == steps:
            saved = [optimizer.state_dict() for optimizer in made]
            partial = kept.with_suffix(".part")
            torch.save({"step": step + 1, "model": decoder.state_dict(), "optimizers": saved}, partial)
            partial.replace(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    folder = given.out / "shoal"
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    shape = read_shape(CONFIG)
    decoder = Decoder(shape)
    start(decoder, shape.layers)
    print(f"{sum(p.numel() for p in decoder.parameters()):,} weights, seed {given.seed}")
    texts = read_texts()
    seen = [text for i, text in enumerate(texts) if i % HELD_OUT]
    tokenizer = make_tokenizer(folder / "tokenizer.json", seen)
    rows = rows_of(tokenizer, seen, np.random.default_rng(given.seed))
    print(f"{rows.size:,} tokens")
    train(decoder, rows, given.steps, given.seed, given.out / "checkpoint.pt")
    save_file(decoder.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (given.out / "calibration.txt").write_text("\n\n".join(seen[:: len(seen) // CALIBRATION]), "utf-8")
    (given.out / "held-out.txt").write_text("\n\n".join(texts[::HELD_OUT]), "utf-8")


if __name__ == "__main__":
    main()
