"""What does it cost to hold a model on two nodes instead of one, and how is it loaded the second time?

Two real nodes on this machine, a model of some 700 million weights by chance (what it says means nothing, and
is the same each time). The second node has it whole; the first gives models less memory than it needs, and
holds it together with the second. Both are asked by turns. There is no distance between them: on a network,
each token takes more than a round trip besides.

    python benchmarks/split.py [--rounds 5] [--tokens 64] [--layers 4]
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import time
from pathlib import Path

import aiohttp
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import quantize

from atoll.demo.ports import free_ports
from atoll.runtimes import events
from atoll.start import start_models
from support import nodes

WIDTH, INNER, HEADS, SEED = 4096, 8192, 32, 11
QUESTION = {"messages": [{"role": "user", "content": "1 2 3 4 5 6 7 8"}], "temperature": 0}
MEGABYTE = 1024**2


def make_model(file: Path, layers: int) -> None:
    """With the tokenizer of the small model that comes along, and weights by chance."""
    small = GGUFReader(next(model.path for model in start_models() if model.name == "pebble"))
    rng = np.random.default_rng(SEED)
    made = GGUFWriter(file, "llama")
    for name, held in small.fields.items():
        if name.startswith("tokenizer."):
            kind = held.types[0]
            sub = held.types[-1] if kind is GGUFValueType.ARRAY else None
            made.add_key_value(name, held.contents(), kind, sub)
    made.add_context_length(512)
    made.add_embedding_length(WIDTH)
    made.add_block_count(layers)
    made.add_feed_forward_length(INNER)
    made.add_head_count(HEADS)
    made.add_head_count_kv(HEADS)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_dimension_count(WIDTH // HEADS)
    words = len(small.fields["tokenizer.ggml.tokens"].contents())

    def add(name: str, rows: int, columns: int) -> None:
        held = rng.standard_normal((rows, columns), dtype=np.float32) / np.sqrt(columns)
        kind = GGMLQuantizationType.Q4_0
        made.add_tensor(name, quantize(held, kind), raw_dtype=kind)

    add("token_embd.weight", words, WIDTH)
    add("output.weight", words, WIDTH)
    made.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for at in range(layers):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{at}.{name}.weight", WIDTH, WIDTH)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{at}.{name}.weight", INNER, WIDTH)
        add(f"blk.{at}.ffn_down.weight", WIDTH, INNER)
        for name in ("attn_norm", "ffn_norm"):
            made.add_tensor(f"blk.{at}.{name}.weight", np.ones(WIDTH, np.float32))
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()


async def ask(port: int, model: str, tokens: int) -> tuple[float, float]:
    """Seconds to the first word, and tokens a second after it."""
    body = {**QUESTION, "model": model, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    splitter, at = events.Splitter(), []
    url, began = f"http://127.0.0.1:{port}/v1/chat/completions", time.perf_counter()
    patience = aiohttp.ClientTimeout(300)
    async with aiohttp.ClientSession(timeout=patience) as session, session.post(url, json=body) as answer:
        if answer.status != 200:
            raise RuntimeError(await answer.text())
        async for block in answer.content.iter_any():
            for event in splitter.feed(block):
                found = (events.content(event) or {}).get("choices")
                if found and found[0]["delta"].get("content"):
                    at.append(time.perf_counter())
    return at[0] - began, (len(at) - 1) / (at[-1] - at[0])


async def difference(*ways: tuple[int, str]) -> float:
    """Between the log-probabilities of the likeliest next words, of those that both name."""
    told = []
    for port, model in ways:
        body = {**QUESTION, "model": model, "max_tokens": 1, "logprobs": True, "top_logprobs": 10}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            said = (await answer.json())["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            told.append({one["token"]: one["logprob"] for one in said})
    return max(abs(told[0][word] - told[1][word]) for word in told[0].keys() & told[1].keys())


async def sent_bytes(port: int) -> int:
    """What a node has sent over its links."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    sent = [line for line in lines if line.startswith("atoll_link_bytes_total") and 'direction="out"' in line]
    return sum(int(float(line.split()[-1])) for line in sent)


async def compare(folder: Path, given: argparse.Namespace) -> None:
    file = folder / "large.gguf"
    await asyncio.to_thread(make_model, file, given.layers)
    size = file.stat().st_size
    print(f"model     {size / MEGABYTE:.0f} MB, {given.layers} layers", flush=True)
    memory = f"{int(size * 0.75 / MEGABYTE) + 100}MB"
    link_one, link_two, one_at, two_at = free_ports(4)
    flags_one = ("--http", f"127.0.0.1:{one_at}", "--link", f"127.0.0.1:{link_one}")
    flags_two = ("--http", f"127.0.0.1:{two_at}", "--link", f"127.0.0.1:{link_two}")
    async with nodes.node(folder / "1", "--name", "one", *flags_one, "--models-memory", memory) as one:
        await nodes.command("runtime", "split", "--home", str(one.home))
        token = (await nodes.command("invite", "--home", str(one.home))).strip().splitlines()[-1]
        await nodes.command("join", token, "--home", str(folder / "2"), "--name", "two", *flags_two)
        await asyncio.to_thread(shutil.copytree, folder / "1/split", folder / "2/split")
        async with nodes.node(folder / "2", "--name", "two", *flags_two) as two:
            add, small = ("model", "add", str(file), "--name"), ("--context", "256", "--parallel", "1")
            await nodes.command(*add, "whole", *small, "--home", str(two.home))
            await nodes.command(*add, "parted", "--split", *small, "--home", str(one.home))
            await asyncio.sleep(8)  # until both have told what they can take
            await measure(one, one_at, two_at, given)


async def measure(one: nodes.Node, one_at: int, two_at: int, given: argparse.Namespace) -> None:
    await load(one_at, given.tokens, "loading")
    await ask(two_at, "whole", given.tokens)
    apart = await difference((one_at, "parted"), (two_at, "whole"))
    print(f"chances   of the next word differ by {apart:.4f} at most, in their logarithm", flush=True)
    found: dict[str, list[tuple[float, float]]] = {"whole": [], "parted": []}
    bytes_before, asked = await sent_bytes(one_at), 0
    for turn in range(given.rounds):
        ways = [("whole", two_at), ("parted", one_at)]
        for model, port in ways[:: 1 if turn % 2 else -1]:
            seconds, rate = await ask(port, model, given.tokens)
            found[model].append((seconds, rate))
            asked += given.tokens if model == "parted" else 0
    sent = await sent_bytes(one_at) - bytes_before
    for model, rows in found.items():
        seconds, rate = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{model:9} {rate:6.1f} tokens/s, first word after {seconds * 1000:.0f} ms", flush=True)
    ratios = [parted[1] / whole[1] for whole, parted in zip(found["whole"], found["parted"], strict=True)]
    print(f"ratio     {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
    print(f"sent      {sent / asked / 1024:.0f} kB a token from the node that asks")
    listed = await nodes.command("model", "list", "--home", str(one.home))
    print(next(line for line in listed.splitlines() if line.startswith("parted")))
    other = ("--split", "--context", "300", "--parallel", "1")  # with other options it is loaded anew
    await nodes.command("model", "place", "parted", *other, "--home", str(one.home))
    await asyncio.sleep(2)
    await load(one_at, given.tokens, "again")


async def load(port: int, tokens: int, title: str) -> None:
    before = await sent_bytes(port)
    seconds, _ = await ask(port, "parted", tokens)
    sent = (await sent_bytes(port) - before) / MEGABYTE
    print(f"{title:9} {seconds:.1f} s until the first word, {sent:.1f} MB sent over the link", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    given = parser.parse_args()
    with nodes.homes() as folder:
        asyncio.run(compare(folder, given))


if __name__ == "__main__":
    main()
