"""A quantized file, served, says token by token what torch says with the weights that the file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

from safetensors.torch import save_file  # noqa: E402

from atoll.compress.calibrate import read_rows  # noqa: E402
from atoll.compress.decoder import Decoder  # noqa: E402
from atoll.compress.folder import load, read_folder  # noqa: E402
from atoll.compress.gguf_file import write_gguf  # noqa: E402
from atoll.compress.quantize import Options, recast  # noqa: E402
from atoll.compress.speed import opened  # noqa: E402
from atoll.compress.vocabulary import read_tokenizer  # noqa: E402
from atoll.runtimes.contract import Ask  # noqa: E402
from atoll.runtimes.events import content  # noqa: E402
from support.decoders import TEXT, save_decoder  # noqa: E402

pytestmark = pytest.mark.slow

SEED, STEPS, TOKENS = 20_264, 40, 24
ROWS, LENGTH = 8, 48


def save_learned(folder: Path) -> list[list[int]]:
    """A decoder that knows some lines by heart, so that it is sure of its words; and how the lines begin."""
    save_decoder(folder, hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    torch.manual_seed(SEED)
    rows = read_rows(TEXT, folder / "tokenizer.json", LENGTH, ROWS)
    decoder = Decoder(read_folder(folder).shape)
    for weight in decoder.parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=0.05)
    optimizer = torch.optim.AdamW(decoder.parameters(), 3e-3)
    for _ in range(STEPS):
        optimizer.zero_grad()
        logits = decoder(rows[:, :-1]).transpose(1, 2)
        torch.nn.functional.cross_entropy(logits, rows[:, 1:]).backward()
        optimizer.step()
    save_file(decoder.state_dict(), folder / "model.safetensors")
    return rows[:, :12].tolist()


@torch.no_grad()
def said_by_torch(decoder: Decoder, tokens: list[int]) -> tuple[list[int], float]:
    """The likeliest tokens, and by how much each was likelier than the next, at least."""
    made, margin = list(tokens), float("inf")
    for _ in range(TOKENS):
        best = decoder(torch.tensor([made]))[0, -1].topk(2)
        margin = min(margin, float(best.values[0] - best.values[1]))
        made.append(int(best.indices[0]))
    return made[len(tokens) :], margin


async def said_by_the_runtime(file: Path, prompts: list[str]) -> list[str]:
    found = []
    async with opened(file) as (runtime, _):
        for prompt in prompts:
            body = {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
            async with runtime.generate(Ask("/v1/completions", body)) as events:
                told = [content(event) or {} async for event in events]
            choices = [one["choices"][0] for one in told if one.get("choices")]
            found.append("".join(one.get("text") or "" for one in choices))
    return found


@pytest.mark.parametrize("form", ["q4_0", "q4_k", "mixed"])
async def test_the_file_says_what_torch_says_with_its_weights(form: str, tmp_path: Path) -> None:
    prompts = save_learned(tmp_path / "model")
    folder = read_folder(tmp_path / "model")
    plan = {"model.layers.0.mlp.down_proj": "q6_k"} if form == "mixed" else None
    asked = Options(to="q4_0" if form == "mixed" else form, calibration=TEXT, plan=plan)
    decoder = load(folder)
    rows = read_rows(TEXT, folder.path / "tokenizer.json", 64, 16)
    write_gguf(decoder, folder, recast(decoder, asked, rows, lambda word: None), tmp_path / "model.gguf")
    tokenizer = read_tokenizer(folder.path / "tokenizer.json")
    texts = [tokenizer.decode(prompt) for prompt in prompts]
    found = await said_by_the_runtime(tmp_path / "model.gguf", texts)
    for text, answer in zip(texts, found, strict=True):
        expected, margin = said_by_torch(decoder, tokenizer.encode(text).ids)
        print(repr(text), margin, repr(tokenizer.decode(expected)), repr(answer), sep="\n")
        assert answer == tokenizer.decode(expected), f"the least margin was {margin}"
