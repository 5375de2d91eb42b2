"""What is compressed may come from a hub or a registry: its safetensors, whatever an engine here runs."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

from atoll.compress.cook import cook  # noqa: E402
from atoll.compress.recipe import read_recipe  # noqa: E402
from atoll.domain.errors import AtollError, DataError  # noqa: E402
from atoll.registry.sources.choose import Offer, choose_to_change  # noqa: E402
from support.decoders import TEXT, save_decoder  # noqa: E402
from support.fix_home import RUN_MAIN, clean_environment, eventually  # noqa: E402
from support.hubs import a_hub, a_registry  # noqa: E402

SECONDS_MAX = 120
LAYER = "application/vnd.cncf.model.weight.v1.raw"
RECIPE = """
source = "{source}"
output = "small.gguf"
[[step]]
do = "quantize"
to = "q4_0"
calibration = "{text}"
rows = 4
length = 64
"""


def save_recipe(folder: Path, source: str) -> Path:
    folder.mkdir()
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(source=source, text=TEXT))
    return recipe


def start(recipe: Path, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN_MAIN, "compress", str(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment() | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


async def follow(recipe: Path, **environment: str) -> None:
    process = start(recipe, **environment)
    _, words = await asyncio.to_thread(process.communicate, timeout=SECONDS_MAX)
    assert process.returncode == 0, words


@pytest.mark.slow
async def test_a_source_is_fetched_once_and_gone_on_with_after_a_break(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    weights = next(body for name, body in files.items() if name.endswith(".safetensors"))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = save_recipe(tmp_path / "first", "hf:reef/tiny@main")
    async with a_hub({**files, "run.py": b"evil"}, model_type="llama") as hub:
        hub.mischief.silent_after = len(weights) // 2
        process = start(first, HF_ENDPOINT=hub.base, **cache)

        def has_part() -> bool:
            assert process.poll() is None, process.communicate()
            return any(part.stat().st_size for part in (tmp_path / "cache").rglob("*.part"))

        await asyncio.to_thread(eventually, has_part, "a part came")
        process.send_signal(signal.SIGINT)
        _, words = await asyncio.to_thread(process.communicate, timeout=SECONDS_MAX)
        assert (process.returncode, b"goes on from here" in words) == (130, True)
        hub.mischief.silent_after = None
        await follow(first, HF_ENDPOINT=hub.base, **cache)
        assert hub.ranges(), "only the rest was asked for"
    async with a_registry() as registry:
        for name, body in files.items():
            registry.put(LAYER, name, body, title=name)
        host = registry.base.removeprefix("http://")
        second = save_recipe(tmp_path / "second", f"oci:{host}/reef/tiny:latest")
        await follow(second, **cache)
        assert not any("/blobs/" in one.path for one in registry.requests), "nothing is fetched again"
    third = save_recipe(tmp_path / "third", "../tiny")
    (tmp_path / "model").rename(tmp_path / "tiny")
    await asyncio.to_thread(cook, read_recipe(third), lambda word: None)
    made = {recipe.with_name("small.gguf").read_bytes() for recipe in (first, second, third)}
    assert len(made) == 1


@pytest.mark.slow
async def test_a_plan_is_made_of_a_hubs_model_where_one_is(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    (tmp_path / "here").mkdir()
    texts = ["--calibration", TEXT, "--judge", TEXT, "--rows", "8", "--calibration-rows", "4"]
    words = [sys.executable, "-c", RUN_MAIN, "compress", "plan", "hf:reef/tiny@main"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    async with a_hub(files, model_type="llama") as hub:
        environment = clean_environment() | {
            "HF_ENDPOINT": hub.base,
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        done = await asyncio.to_thread(
            subprocess.run,
            [*words, *texts, "--max-loss", "9", "-o", "small.gguf"],
            cwd=tmp_path / "here",
            env=environment,
            capture_output=True,
            timeout=SECONDS_MAX,
        )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "here").iterdir()} == {".tiny.plan", "small.gguf"}


def test_a_place_that_is_none_is_refused_as_a_recipe_is_read(tmp_path: Path) -> None:
    with pytest.raises(AtollError) as told:
        read_recipe(save_recipe(tmp_path / "own", "hf:nothing"))
    assert told.value.code == "source-malformed"


@pytest.mark.parametrize(
    ("paths", "taken"),
    [
        (
            ["run.py", "model.safetensors", "config.json", "tiny-F16.gguf", "adapter_model.safetensors"],
            ["model.safetensors", "config.json"],
        ),
        (
            [
                "model.safetensors.index.json",
                "model-00002-of-00002.safetensors",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
            ],
            [
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "tokenizer.json",
            ],
        ),
        (["onnx/model.onnx", "config.json"], ["model.onnx", "config.json"]),
    ],
)
def test_weights_are_taken_whole_and_nothing_that_runs(paths: list[str], taken: list[str]) -> None:
    offers = [Offer(path, f"http://localhost/{path}") for path in paths]
    assert [offer.path for offer in choose_to_change(offers, "hf:reef/tiny", None)] == taken


def test_a_source_without_weights_is_refused() -> None:
    with pytest.raises(DataError) as told:
        choose_to_change([Offer("model.safetensors.index.json", "http://localhost/x")], "hf:reef/tiny", None)
    assert told.value.code == "source-no-model"
