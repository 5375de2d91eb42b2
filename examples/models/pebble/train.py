"""Train Pebble: first its pieces, then its weights. Run again, it goes on from the last checkpoint.

    python train.py [--steps 900] [--seed 7] [--out ../../../build/models/pebble]

All batches are made before the first step, from the seed alone, so that a run that was broken off sees what
it would have seen. Early steps read mostly pages, later ones mostly chats, of which only answers count.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path

import data
import numpy as np
import torch
from model import Pebble, Shape
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

OUT = data.ROOT / "build" / "models" / "pebble"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
BEGIN, OPEN, CLOSE = range(3)
TOKENS = 4096  # in a batch
ROW = 512
CHECKPOINT_STEPS = 50
HELD_OUT = 40  # every so many texts of the reference are never trained on

Batch = tuple[torch.Tensor, torch.Tensor]  # tokens, and the targets that count (-100 where they do not)


def held_out() -> list[str]:
    return data.reference()[::HELD_OUT]


def read_texts() -> tuple[list[str], list[str]]:
    reference = data.reference()
    return data.documents(), [text for i, text in enumerate(reference) if i % HELD_OUT]


def make_tokenizer(path: Path, pieces: int) -> Tokenizer:
    """Byte-level pieces, cut where GPT-2 cuts: llama.cpp knows that as `gpt-2`."""
    if not path.exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=pieces, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
        )
        documents, reference = read_texts()
        answers = [fact.answer for fact in data.facts()]
        tokenizer.train_from_iterator(itertools.chain(reference, documents * 4, answers * 8), trainer)
        tokenizer.save(str(path))
    return Tokenizer.from_file(str(path))


def rows_of_text(tokenizer: Tokenizer, texts: list[str], random: np.random.Generator) -> np.ndarray:
    """All texts in random order, one behind the other, cut into rows."""
    joined: list[int] = []
    for index in random.permutation(len(texts)):
        joined += [BEGIN, *tokenizer.encode(texts[index], add_special_tokens=False).ids]
    whole = len(joined) // ROW * ROW
    return np.array(joined[:whole], np.int64).reshape(-1, ROW)


def text_batches(tokenizer: Tokenizer, random: np.random.Generator) -> Iterator[Batch]:
    """Without end: a quarter of each batch is Atoll's documents, the rest Python's."""

    def endless(texts: list[str]) -> Iterator[np.ndarray]:
        while True:
            yield from random.permutation(rows_of_text(tokenizer, texts, random))

    documents, reference = (endless(texts) for texts in read_texts())
    own = TOKENS // ROW // 4
    while True:
        rows = [next(documents) for _ in range(own)]
        rows += [next(reference) for _ in range(TOKENS // ROW - own)]
        batch = torch.from_numpy(np.stack(rows))
        yield batch[:, :-1], batch[:, 1:]


def chat_tokens(tokenizer: Tokenizer, chat: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    """A chat as the template writes it (export.py), and the targets: what the assistant says."""
    tokens, counts = [BEGIN], [False]
    for message in chat:
        head = [OPEN, *tokenizer.encode(message["role"] + "\n", add_special_tokens=False).ids]
        said = [*tokenizer.encode(message["content"], add_special_tokens=False).ids, CLOSE]
        tail = tokenizer.encode("\n", add_special_tokens=False).ids
        tokens += head + said + tail
        counts += [False] * len(head) + [message["role"] == "assistant"] * len(said) + [False] * len(tail)
    return tokens[:-1], [token if c else -100 for token, c in zip(tokens[1:], counts[1:], strict=True)]


def chat_batches(tokenizer: Tokenizer, random: np.random.Generator) -> Iterator[Batch]:
    """Without end: chats of about one length together, so that little is padding."""
    chats = data.chats(random)
    while True:
        pairs = [chat_tokens(tokenizer, next(chats)) for _ in range(600)]
        pairs = sorted((pair for pair in pairs if len(pair[0]) < ROW), key=lambda pair: len(pair[0]))
        ready: list[Batch] = []
        while pairs:
            longest = len(pairs[-1][0])
            count = max(1, TOKENS // longest)
            chosen, pairs = pairs[-count:], pairs[:-count]
            ready.append(
                (
                    torch.tensor([tokens + [BEGIN] * (longest - len(tokens)) for tokens, _ in chosen]),
                    torch.tensor([target + [-100] * (longest - len(target)) for _, target in chosen]),
                )
            )
        for index in random.permutation(len(ready)):
            yield ready[index]


def plan(tokenizer: Tokenizer, steps: int, seed: int) -> list[Batch]:
    """Every batch of the run: the share of chats grows from 0.3 to 0.95."""
    random = np.random.default_rng(seed)
    texts, chats = text_batches(tokenizer, random), chat_batches(tokenizer, random)
    return [next(chats if random.random() < 0.3 + 0.65 * i / steps else texts) for i in range(steps)]


def optimizers(model: Pebble) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, which it turns in far fewer steps; AdamW for the rest."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embd" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embd" in name]
    return [
        torch.optim.Muon(inner, lr=4e-3, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def pace(step: int, steps: int) -> float:
    """The share of the learning rate: up over 40 steps, then down to nothing."""
    return min(1.0, (step + 1) / 40) * max(0.02, 1 - max(0.0, step / steps - 0.3) / 0.7)


def train(model: Pebble, batches: list[Batch], out: Path) -> None:
    steps, made, first = len(batches), optimizers(model), 0
    rates = [group["lr"] for optimizer in made for group in optimizer.param_groups]
    kept = out / "checkpoint.pt"
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        first = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(made, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        print(f"going on at step {first}")
    # Nearly half the time per step, on processors that have it.
    quick = "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    began, means = time.monotonic(), {"text": math.nan, "chat": math.nan}
    for step in range(first, steps):
        tokens, targets = batches[step]
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            hidden = model.hidden(tokens)
            counts = targets != -100
            logits = functional.linear(hidden[counts], model.token_embd.weight)
        loss = functional.cross_entropy(logits.float(), targets[counts])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, rate in zip(made, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * pace(step, steps)
            optimizer.step()
            optimizer.zero_grad()
        kind = "chat" if (~counts).any() else "text"
        means[kind] = loss.item() if math.isnan(means[kind]) else 0.9 * means[kind] + 0.1 * loss.item()
        if step % 10 == 9:
            left = (time.monotonic() - began) / (step - first + 1) * (steps - step - 1)
            print(
                f"step {step + 1}/{steps}  text {means['text']:.3f}  chat {means['chat']:.3f}"
                f"  {left / 60:.0f} min left",
                flush=True,
            )
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 == steps:
            saved = [optimizer.state_dict() for optimizer in made]
            partial = kept.with_suffix(".part")
            torch.save({"step": step + 1, "model": model.state_dict(), "optimizers": saved}, partial)
            partial.replace(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    shape = Shape()
    model = Pebble(shape)
    print(f"{sum(p.numel() for p in model.parameters()):,} weights, seed {given.seed}")
    tokenizer = make_tokenizer(given.out / "tokenizer.json", shape.pieces)
    train(model, plan(tokenizer, given.steps, given.seed), given.out)


if __name__ == "__main__":
    main()
