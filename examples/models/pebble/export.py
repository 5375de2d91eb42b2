"""Write what train.py made as GGUF, and hold the file against torch.

    python export.py [--out ../../../build/models/pebble]

Makes pebble.f32.gguf, pebble.q8_0.gguf and pebble.q4_0.gguf; in the last, the embedding, which is the output
too, has eight bits. The file in 32 bits has to say the same as torch, word for word.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import data
import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from model import Pebble, Shape
from tokenizers import Tokenizer
from torch.nn import functional
from train import BEGIN, CLOSE, OPEN, OUT, ROW, SPECIAL, held_out

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORMS = {
    "f32": (Kind.F32, Kind.F32, gguf.LlamaFileType.ALL_F32),
    "q8_0": (Kind.Q8_0, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (Kind.Q4_0, Kind.Q8_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}
PROMPTS = (
    "What does the error key-serial mean?",
    "What is a stamp?",
    "How do I start a node?",
    "Who are you?",
    "Zwei Möwen: 🐦, 7,5 %?",
)


def load(out: Path) -> tuple[Pebble, Tokenizer]:
    model = Pebble(Shape())
    model.load_state_dict(torch.load(out / "checkpoint.pt", weights_only=True)["model"])
    return model.eval(), Tokenizer.from_file(str(out / "tokenizer.json"))


def write(model: Pebble, tokenizer: Tokenizer, form: str, path: Path) -> None:
    inner, embedding, file_type = FORMS[form]
    shape = model.shape
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("Pebble")
    writer.add_description("A very small model that knows a little of Atoll's documents.")
    writer.add_license("Apache-2.0")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.pieces)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.shared_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rotary_base)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    add_pieces(writer, tokenizer)
    for name, weight in model.state_dict().items():
        kind = embedding if "embd" in name else inner if weight.ndim == 2 else Kind.F32
        writer.add_tensor(name, gguf.quants.quantize(weight.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_pieces(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    made = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(made["vocab"], key=made["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if piece in SPECIAL else normal for piece in pieces])
    writer.add_token_merges([" ".join(pair) for pair in made["merges"]])
    writer.add_bos_token_id(BEGIN)
    writer.add_eos_token_id(CLOSE)
    writer.add_eot_token_id(CLOSE)
    writer.add_pad_token_id(BEGIN)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(TEMPLATE)


def restored(model: Pebble, path: Path) -> Pebble:
    """A model with the weights as the file has them."""
    other = Pebble(model.shape).eval()
    known = other.state_dict()
    for tensor in gguf.GGUFReader(path).tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        known[tensor.name] = torch.from_numpy(weight.copy()).reshape(known[tensor.name].shape)
    other.load_state_dict(known)
    return other


def asked(path: Path, requests: list[dict[str, Any]]) -> list[Any]:
    command = [sys.executable, str(data.HERE / "ask.py"), str(path)]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, check=True)
    answers: list[Any] = json.loads(done.stdout)
    return answers


@torch.no_grad()
def greedy(model: Pebble, tokenizer: Tokenizer, question: str) -> str:
    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    tokens = [BEGIN, OPEN, *ids("user\n"), *ids(question), CLOSE, *ids("\n"), OPEN, *ids("assistant\n")]
    first = len(tokens)
    while len(tokens) < first + 120:
        best = int(model(torch.tensor([tokens]))[0, -1].argmax())
        if best in (CLOSE, BEGIN):
            break
        tokens.append(best)
    return str(tokenizer.decode(tokens[first:]))


@torch.no_grad()
def perplexity(model: Pebble, tokenizer: Tokenizer) -> float:
    """Of texts that were not trained on, each from its beginning."""
    total, count = 0.0, 0
    for text in held_out():
        tokens = torch.tensor([[BEGIN, *tokenizer.encode(text, add_special_tokens=False).ids][: ROW + 1]])
        logits = model(tokens[:, :-1])[0]
        total += functional.cross_entropy(logits, tokens[0, 1:], reduction="sum").item()
        count += tokens.shape[1] - 1
    return float(np.exp(total / count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    torch.set_num_threads(1)
    model, tokenizer = load(out)
    for form in FORMS:
        path = out / f"pebble.{form}.gguf"
        write(model, tokenizer, form, path)
        size, value = path.stat().st_size, perplexity(restored(model, path), tokenizer)
        print(f"{path.name}: {size:,} bytes, perplexity {value:.2f}", flush=True)
    requests = [{"messages": [{"role": "user", "content": prompt}]} for prompt in PROMPTS]
    for prompt, answer in zip(PROMPTS, asked(out / "pebble.f32.gguf", requests), strict=True):
        said, expected = answer["choices"][0]["message"]["content"], greedy(model, tokenizer, prompt)
        assert said == expected, f"{prompt}\n  torch:     {expected}\n  llama.cpp: {said}"
        print(f"{prompt}\n  {said}")


if __name__ == "__main__":
    main()
