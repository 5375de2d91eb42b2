"""Does GPTQ of our own come to what a library's comes to, and does a file keep what the library solved?

llm-compressor solves the linear layers of the model of examples/models/shoal (train it first) on the same
rows as ours, in groups of 32. Its whole numbers go into a file by our packer. The file is read by the
runtime, the library's model by transformers, both on texts that neither has seen. The embedding stays in 32
bits, so that only solved layers differ. Needs the extra `compress` and, in an environment of its own,
llmcompressor.

    python benchmarks/gptq_library.py [--model build/models/shoal] [--rows 128] [--judge 128] [--seed 7]
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from atoll.compress import forms
from atoll.compress.calibrate import linear_names, read_rows
from atoll.compress.cook import judging_rows
from atoll.compress.decoder import Decoder
from atoll.compress.folder import Folder, load, read_folder
from atoll.compress.gguf_file import Recasting, write_gguf
from atoll.compress.quantize import quantize
from atoll.compress.reading import read
from atoll.compress.sense import output_names
from support import report

SHOAL = Path(__file__).resolve().parents[1] / "build" / "models" / "shoal"
GROUP, LENGTH = 32, 256
PLAIN = "f32"


def silent(word: str) -> None:
    pass


def solved_by_library(folder: Path, calibration: torch.Tensor) -> Any:
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from transformers import AutoModelForCausalLM

    net = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": GROUP}
    groups = {"all": {"targets": ["Linear"], "weights": weights}}
    way = GPTQModifier(ignore=["lm_head"], config_groups=groups)
    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in calibration]
    oneshot(
        model=net,
        dataset=Dataset.from_list(rows),
        recipe=way,
        num_calibration_samples=len(rows),
        max_seq_length=LENGTH,
    )
    return net.eval()


def perplexity(net: Any, rows: Sequence[Sequence[int]]) -> float:
    lost, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            tokens = torch.tensor([row])
            chances = net(tokens).logits[0, :-1].log_softmax(-1)
            lost -= float(chances.gather(1, tokens[0, 1:, None]).sum())
            count += len(row) - 1
    return math.exp(lost / count)


def packed(net: Any, decoder: Decoder, folder: Folder, target: Path) -> None:
    """The library's whole numbers, as they are, with its scales in 16 bits."""
    rows: dict[str, Any] = {}
    for name in linear_names(decoder):
        module = net.get_submodule(name)
        scales = module.weight_scale.detach().float()
        weight = module.weight.detach().float()
        levels = (weight / scales.repeat_interleave(GROUP, 1)).round()
        assert float((levels * scales.repeat_interleave(GROUP, 1) - weight).abs().max()) < 1e-5, name
        rows[name] = forms.pack_levels(levels.to(torch.int8).numpy(), scales.numpy())
    plan = dict.fromkeys(rows, "q4_0") | dict.fromkeys(output_names(decoder), PLAIN)
    write_gguf(decoder, folder, Recasting(plan, rows), target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=SHOAL)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--judge", type=int, default=128)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        import llmcompressor  # noqa: F401
    except ImportError:
        print("llmcompressor is not installed: pip install llmcompressor, in an environment of its own")
        return
    torch.set_num_threads(1)
    print(f"machine   {report.machine()}\nseed      {given.seed}")
    place, text = given.model / "shoal", given.model / "calibration.txt"
    folder = read_folder(place)
    rows = judging_rows(given.model / "held-out.txt", place, given.judge)
    calibration = read_rows(text, place / "tokenizer.json", LENGTH, given.rows)
    decoder = load(folder)
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / "model.gguf"
        parts = [*linear_names(decoder), *output_names(decoder)]
        write_gguf(decoder, folder, Recasting(dict.fromkeys(parts, PLAIN)), file)
        whole = read(file, rows).perplexity
        print(f"{'32 bits':<44}{whole:>10.4f}")
        began = time.monotonic()
        net = solved_by_library(place, calibration)
        took = time.monotonic() - began
        theirs = perplexity(net, rows)
        show("llm-compressor, in transformers", theirs, whole, took)
        packed(net, copy.deepcopy(decoder), folder, file)
        kept = read(file, rows).perplexity
        show("its whole numbers in our file, in llama.cpp", kept, whole)
        began = time.monotonic()
        told = {"to": "q4_0", "embedding": PLAIN, "method": "gptq", "group": GROUP, "length": LENGTH}
        quantize(place, file, {**told, "calibration": text, "rows": given.rows}, silent)
        took = time.monotonic() - began
        ours = read(file, rows).perplexity
        show("our own, in llama.cpp", ours, whole, took)
        print(f"file against library {kept / theirs - 1:+.5%}; ours against theirs {ours / theirs - 1:+.3%}")


def show(name: str, found: float, whole: float, took: float | None = None) -> None:
    seconds = "" if took is None else f"{took:>6.0f} s"
    print(f"{name:<44}{found:>10.4f}{found / whole - 1:>9.3%}{seconds}", flush=True)


if __name__ == "__main__":
    main()
