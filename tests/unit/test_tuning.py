"""Tuning: a model learns from rows, goes on after a kill, and is served with what it learned."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from atoll.compress.folder import read_folder
from atoll.compress.vocabulary import read_vocabulary
from atoll.domain.errors import ConfigError, DataError
from atoll.domain.models import Skill
from atoll.registry.adapters import check_fit
from atoll.runtimes import answers
from atoll.runtimes.contract import Ask
from atoll.runtimes.llama.runtime import LlamaRuntime
from atoll.runtimes.llama.wants import Wants
from atoll.training import lora
from atoll.training.batches import encode
from atoll.training.examples import Example, of_rows
from atoll.training.folder import load
from atoll.training.loop import Schedule, train
from atoll.training.tune import Options, tune
from support.fix_tiny_llama import CONTEXT, STATES, make_model, questions, sentences, write_gguf, write_rows

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SEED = 1
SCHEDULE = Schedule(steps=90, batch=16, rate=1e-2, every=30, patience=9, seed=SEED)
COMPLETIONS = "/v1/completions"
ASKED = "the oven in hall 3 is wet, so"


def quiet(word: str) -> None:
    pass


@pytest.fixture(scope="module")
def learned(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """An adapter with new cures, and the model that it was merged into."""
    print(f"seed {SEED}")
    target = tmp_path_factory.mktemp("tuned") / "cures"
    facts = tune(
        tiny_llama, target, of_rows(questions(300, SEED)), Options(merge=True, schedule=SCHEDULE), quiet
    )
    return target, facts


def answer(net: Any, tokenizer: Any, prompt: str, tokens: int = 8) -> str:
    import torch

    said = tokenizer(prompt)["input_ids"]
    first = len(said)
    with torch.no_grad():
        while len(said) < first + tokens:
            said.append(int(net(torch.tensor([said])).logits[0, -1].argmax()))
            if said[-1] == tokenizer.eos_token_id:
                break
    return str(tokenizer.decode(said[first:], skip_special_tokens=True))


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("told", [None, True, False])
def test_a_text_begins_in_training_as_it_does_where_the_file_is_served(
    kind: str, told: bool | None, tmp_path: Path, training: None
) -> None:
    folder = make_model(tmp_path / "model", layers=1, kind=kind)
    file = folder / "tokenizer_config.json"
    if told is not None:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"add_bos_token": told}))
    (row,) = encode(load(folder).tokenizer, [Example("", "the saw is hot")], 64)
    begins = (kind == "llama") if told is None else told
    assert (row.tokens[0] == 0) is begins
    assert read_vocabulary(read_folder(folder)).adds_begin is begins


def test_it_learns_what_the_rows_say_with_less_memory(
    learned: tuple[Path, dict[str, Any]], tiny_llama: Path
) -> None:
    target, facts = learned
    assert facts["loss_after"] < facts["loss_before"] / 2
    assert facts["learned"] < facts["weights"]
    assert facts["memory"]["optimizer"] < facts["memory_full"]["optimizer"]
    assert facts["memory"]["total"] < facts["memory_full"]["total"]
    assert json.loads((target / "training.json").read_text())["loss_after"] == facts["loss_after"]
    assert answer(*_parts(tiny_llama), ASKED).strip() == "dry it."
    assert answer(*_parts(target / "merged"), ASKED).strip() == "sell it."


def _parts(folder: Path) -> tuple[Any, Any]:
    model = load(folder)
    return model.net, model.tokenizer


def test_a_merged_model_says_what_the_adapter_says(
    learned: tuple[Path, dict[str, Any]], tiny_llama: Path
) -> None:
    import torch
    from peft import PeftModel

    target, _ = learned
    beside = PeftModel.from_pretrained(load(tiny_llama).net, target).eval()
    merged = load(target / "merged").net.eval()
    tokens = torch.tensor([random.Random(SEED).sample(range(2, 300), 40)])
    with torch.no_grad():
        torch.testing.assert_close(beside(tokens).logits, merged(tokens).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_the_words_are_learned_too_and_merged(
    tiny_llama: Path, tmp_path: Path, is_tied: bool, method: str
) -> None:
    import torch
    from peft import PeftModel

    base = load(tiny_llama)
    if not is_tied:
        base.net.config.tie_word_embeddings = False
        base.net.lm_head.weight = torch.nn.Parameter(base.net.lm_head.weight.detach().clone())
    base.net.save_pretrained(tmp_path / "base")
    base.tokenizer.save_pretrained(tmp_path / "base")
    wish = Options(method, embeddings=True, schedule=replace(SCHEDULE, steps=60))
    facts = tune(tmp_path / "base", tmp_path / "out", of_rows(questions(200, SEED)), wish, quiet)
    assert facts["loss_after"] < facts["loss_before"] / 2
    assert not (tmp_path / "out/adapter.gguf").exists()
    merged = load(tmp_path / "out/merged").net.eval()
    assert not torch.equal(merged.model.embed_tokens.weight, base.net.model.embed_tokens.weight)
    assert not torch.equal(merged.lm_head.weight, base.net.lm_head.weight)
    assert torch.equal(merged.model.embed_tokens.weight, merged.lm_head.weight) is is_tied
    beside = PeftModel.from_pretrained(load(tmp_path / "base").net, tmp_path / "out").eval()
    tokens = torch.tensor([random.Random(SEED).sample(range(2, 300), 40)])
    with torch.no_grad():
        torch.testing.assert_close(beside(tokens).logits, merged(tokens).logits, rtol=1e-4, atol=1e-4)


async def test_the_runtime_serves_the_adapter_to_whoever_names_it(
    learned: tuple[Path, dict[str, Any]], tiny_llama: Path, tmp_path: Path, socket_folder: Path
) -> None:
    await _says_what_torch_says(tiny_llama, learned[0], tmp_path, socket_folder)


async def test_so_it_does_where_heads_are_kept_as_they_are(
    training: None, tmp_path: Path, socket_folder: Path
) -> None:
    """Qwen's kind is not turned as llama's is, and has biases."""
    raw, schedule = make_model(tmp_path / "raw", layers=2, kind="qwen2"), Schedule(60, 16, 5e-3, 60, 9, SEED)
    texts = of_rows({"text": one} for one in sentences(200, SEED))
    tune(raw, tmp_path / "base", texts, Options("full", schedule=schedule), quiet)
    rows = of_rows(questions(100, SEED))
    tune(tmp_path / "base", tmp_path / "cures", rows, Options(merge=True, schedule=schedule), quiet)
    await _says_what_torch_says(tmp_path / "base", tmp_path / "cures", tmp_path, socket_folder)


async def _says_what_torch_says(folder: Path, tuned: Path, place: Path, sockets: Path) -> None:
    """Word for word, without the adapter and with it."""
    base, adapter = place / "base.gguf", tuned / lora.ADAPTER
    write_gguf(folder, base)
    check_fit("cures", adapter, base)
    wants = Wants("model", Skill.GENERATE, CONTEXT, parallel=1, adapters={"cures": adapter})
    runtime = LlamaRuntime(base, wants, folder=sockets, log=place / "log")
    await runtime.start()
    said: dict[str | None, list[str]] = {}
    try:
        for name, model in ((None, load(folder)), ("cures", load(tuned / "merged"))):
            for state in STATES:
                prompt = f"the oven in hall 3 is {state}, so"
                body = {"prompt": prompt, "temperature": 0, "max_tokens": 8}
                async with runtime.generate(Ask(COMPLETIONS, body, name)) as events:
                    found = answers.gather(COMPLETIONS, [event async for event in events])
                said.setdefault(name, []).append(found["choices"][0]["text"].strip())
                assert said[name][-1] == answer(model.net, model.tokenizer, prompt).strip(), (
                    f"{name}: {prompt}"
                )
    finally:
        await runtime.stop()
    assert said[None] != said["cures"]


def test_killed_in_the_middle_it_comes_to_the_same_weights(tiny_llama: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    rows = write_rows(tmp_path / "rows.jsonl", questions(120, SEED))
    schedule = Schedule(steps=30, batch=8, rate=5e-3, every=5, patience=9, seed=SEED)
    tune(tiny_llama, tmp_path / "whole", of_rows(questions(120, SEED)), Options(schedule=schedule), quiet)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        "from atoll.cli.app import main; main()",
        "tune",
        str(tiny_llama),
    ]
    command += [
        "--rows",
        str(rows),
        "-o",
        str(tmp_path / "cut"),
        "--steps",
        "30",
        "--rate",
        "5e-3",
        "--every",
        "5",
    ]
    command += ["--patience", "9", "--seed", str(SEED)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "step 10 " in line:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed before its end"
    assert not (tmp_path / "cut").exists()
    said: list[str] = []
    tune(tiny_llama, tmp_path / "cut", of_rows(questions(120, SEED)), Options(schedule=schedule), said.append)
    assert any(word.startswith("going on after step") for word in said)
    one, other = (load_file(tmp_path / name / lora.WEIGHTS) for name in ("whole", "cut"))
    assert all((one[name] == other[name]).all() for name in one)
    assert not list(tmp_path.glob("*.partial"))


def test_other_work_does_not_go_on_with_what_is_unfinished(tiny_llama: Path, tmp_path: Path) -> None:
    def stop(word: str) -> None:
        if word.startswith("step"):
            raise KeyboardInterrupt

    rows = of_rows(questions(60, SEED))
    with pytest.raises(KeyboardInterrupt):
        tune(tiny_llama, tmp_path / "out", rows, Options(schedule=Schedule(20, 4, every=5)), stop)
    with pytest.raises(ConfigError) as caught:
        tune(tiny_llama, tmp_path / "out", rows, Options(rank=4, schedule=Schedule(20, 4, every=5)), quiet)
    assert caught.value.code == "unfinished-differs"
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="there already"):
        tune(tiny_llama, tmp_path / "out", rows, Options(), quiet)


def test_on_a_full_disk_it_ends_in_words_and_leaves_nothing_that_looks_done(
    tiny_llama: Path, tmp_path: Path
) -> None:
    """A bound on the size of files stands for the disk: the checkpoint does not fit below it."""
    rows, wish = of_rows(questions(20, SEED)), Options(schedule=Schedule(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(ConfigError) as caught:
            tune(tiny_llama, tmp_path / "out", rows, wish, quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.code == "target-unwritable"
    assert not (tmp_path / "out").exists()
    assert tune(tiny_llama, tmp_path / "out", rows, wish, quiet)["steps"] == 2


def test_in_four_bits_gradients_flow_after_it_was_judged(tiny_llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    facts = tune(
        tiny_llama, tmp_path / "q", of_rows(questions(200, SEED)), Options("qlora", schedule=SCHEDULE), quiet
    )
    assert facts["memory"]["weights"] < facts["weights"] * 4
    assert facts["loss_after"] < facts["loss_before"] / 2, (
        "a network whose gradients are lost learns much less"
    )


def test_weights_that_get_no_gradient_are_told(tiny_llama: Path, tmp_path: Path) -> None:
    model = load(tiny_llama)
    rows = encode(model.tokenizer, of_rows(questions(20, SEED)), 64)
    net = lora.attach(model, 4, 4.0, SEED)
    for name, weight in net.named_parameters():
        if "layers.2.mlp.up_proj.lora_B" in name:
            weight.register_hook(lambda gradient: gradient * 0)
    with pytest.raises(DataError) as caught:
        train(net, rows, rows[:4], Schedule(5), tmp_path, quiet)
    assert caught.value.code == "gradients-missing"
    assert "layers.2.mlp.up_proj.lora_B" in str(caught.value.detail)


def _broken(folder: Path, how: str) -> None:
    from safetensors.numpy import load_file, save_file

    config = json.loads((folder / "config.json").read_text())
    if how == "kind":
        (folder / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
    elif how == "weights":
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][3] = math.nan
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif how == "none":
        (folder / "model.safetensors").unlink()
    else:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["added_tokens"] += [
            dict(tokenizer["added_tokens"][0], id=320 + n, content=f"<{n}>") for n in range(5)
        ]
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("kind", "model-untrainable"),
        ("none", "model-untrainable"),
        ("weights", "weights-broken"),
        ("tokenizer", "tokenizer-misfit"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(tiny_llama: Path, tmp_path: Path, how: str, code: str) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(tiny_llama, bad)
    _broken(bad, how)
    with pytest.raises(DataError) as caught:
        tune(bad, tmp_path / "out", of_rows(questions(20, SEED)), Options(), quiet)
    assert caught.value.code == code
    assert not (tmp_path / "out").exists()
