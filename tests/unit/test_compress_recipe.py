"""A recipe is followed to its end or leaves nothing half-done; whoever is killed goes on where it was."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: make test installs it where it can")

from atoll.compress.cook import cook  # noqa: E402
from atoll.compress.recipe import read_recipe  # noqa: E402
from atoll.domain.errors import AtollError  # noqa: E402
from atoll.registry.formats.read import read_model  # noqa: E402
from atoll.registry.formats.safetensors import read_safetensors  # noqa: E402
from support.decoders import TEXT, save_decoder  # noqa: E402
from support.fix_home import RUN_MAIN  # noqa: E402
from support.fix_tiny_llama import make_model  # noqa: E402

pytestmark = pytest.mark.slow

RECIPE = """
source = "model"
output = "small.gguf"
judge = "text.txt"
{budget}
[[step]]
do = "quantize"
to = "{form}"
calibration = "text.txt"
rows = 8
length = 64
"""
SECONDS_MAX = 120


def save_recipe(folder: Path, form: str = "q4_0", budget: str = "") -> Path:
    (folder / "text.txt").write_text(TEXT.read_text("utf-8"), "utf-8")
    path = folder / "recipe.toml"
    path.write_text(RECIPE.format(form=form, budget=budget))
    return path


def silent(word: str) -> None:
    pass


def test_a_recipe_ends_in_a_file_and_what_it_cost(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    outcome = cook(read_recipe(save_recipe(tmp_path)), silent)
    assert read_model(tmp_path / "small.gguf").quantization == "Q4_0"
    assert outcome.before is not None
    assert outcome.after is not None
    assert outcome.after.bytes == (tmp_path / "small.gguf").stat().st_size < outcome.before.bytes
    assert outcome.before.reading is not None
    assert outcome.after.reading is not None
    assert outcome.after.reading.perplexity == pytest.approx(outcome.before.reading.perplexity, rel=1)
    assert outcome.after.speed.per_second > 0
    assert outcome.after.speed.resident_bytes > 1e6
    assert {path.name for path in tmp_path.iterdir()} == {"model", "recipe.toml", "small.gguf", "text.txt"}


@pytest.mark.parametrize(
    "budget", ["max_bytes = 10", "max_loss = -0.9", "max_resident_bytes = 10", "max_ms = 1e-9"]
)
def test_what_is_over_its_budget_is_not_kept(budget: str, tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    with pytest.raises(AtollError) as told:
        cook(read_recipe(save_recipe(tmp_path, budget=f"[budget]\n{budget}")), silent)
    assert told.value.code == "budget-missed"
    assert not (tmp_path / "small.gguf").exists()


def test_what_was_done_is_not_done_again_unless_something_changed(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    with pytest.raises(AtollError):
        cook(read_recipe(save_recipe(tmp_path, budget="[budget]\nmax_bytes = 10")), silent)
    said: list[str] = []
    cook(read_recipe(save_recipe(tmp_path)), said.append)
    assert any("quantize: done before" in word for word in said)
    with pytest.raises(AtollError):
        cook(read_recipe(save_recipe(tmp_path, budget="[budget]\nmax_bytes = 10")), silent)
    said.clear()
    cook(read_recipe(save_recipe(tmp_path, "q8_0")), said.append)
    assert any("quantize: begins" in word for word in said)


def start(recipe: Path, bytes_max: int | None = None) -> subprocess.Popen[bytes]:
    def limit() -> None:
        if bytes_max is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, bytes_max))

    command = [sys.executable, "-c", RUN_MAIN, "compress", str(recipe)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=limit)


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_output_and_goes_on(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    recipe = save_recipe(tmp_path)
    process = start(recipe)
    deadline = time.monotonic() + SECONDS_MAX
    work = tmp_path / ".small.gguf.work"
    while not list(work.glob("1-quantize-*.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "small.gguf").exists()
    said: list[str] = []
    cook(read_recipe(recipe), said.append)
    assert any("quantize: done before" in word for word in said)
    assert (tmp_path / "small.gguf").is_file()
    assert not work.exists()


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_is_said_and_nothing_half_written_is_left(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    process = start(save_recipe(tmp_path), bytes_max=40_000)
    _, said = process.communicate(timeout=SECONDS_MAX)
    assert process.returncode == 1, said
    assert b"code: target-unwritable" in said
    assert not (tmp_path / "small.gguf").exists()
    assert not list((tmp_path / ".small.gguf.work").glob(".*.part"))


LEARNING = """
source = "model"
output = "small.gguf"
judge = "text.txt"
[[step]]
do = "{do}"
rows = "text.txt"
tokens = 64
{options}
[[step]]
do = "quantize"
to = "q8_0"
"""


@pytest.mark.parametrize(
    ("do", "options", "is_smaller"),
    [
        ("prune", 'method = "width"\nshare = 0.5\nheal = 2', True),
        ("distill", 'student = "layers"\nshare = 0.5\nsteps = 2', True),
        ("tune", "steps = 2\nrank = 4", False),
    ],
)
def test_what_a_step_has_learned_is_what_the_next_one_reads(
    do: str, options: str, is_smaller: bool, tmp_path: Path, training: None
) -> None:
    make_model(tmp_path / "model")
    save_recipe(tmp_path)
    (tmp_path / "recipe.toml").write_text(LEARNING.format(do=do, options=options))
    outcome = cook(read_recipe(tmp_path / "recipe.toml"), silent)
    assert outcome.facts[0]["loss_after"] > 0
    whole, made = (read_parameters(tmp_path, name) for name in ("model", "small.gguf"))
    assert (made < whole) is is_smaller
    assert outcome.after is not None
    assert outcome.after.reading is not None


def test_an_option_of_learning_that_cannot_be_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    save_decoder(tmp_path / "model")
    save_recipe(tmp_path)
    for options in ('pattern = "3:7"', "share = true", "colour = 1"):
        (tmp_path / "recipe.toml").write_text(LEARNING.format(do="prune", options=options))
        with pytest.raises(AtollError) as told:
            cook(read_recipe(tmp_path / "recipe.toml"), silent)
        assert told.value.code == "recipe-malformed"


def read_parameters(folder: Path, name: str) -> int:
    read = read_safetensors if (folder / name).is_dir() else read_model
    return read(folder / name).parameters or 0


@pytest.mark.parametrize(
    "text",
    [
        "source =",
        "",
        'source = "model"\noutput = "x.gguf"',
        'source = "model"\noutput = "x.gguf"\n[[step]]\ndo = "fry"',
        'source = "model"\noutput = "x.gguf"\ncolour = 1\n[[step]]\ndo = "quantize"',
        'source = "model"\noutput = "x.gguf"\nbudget = 7\n[[step]]\ndo = "quantize"',
        'source = "model"\noutput = "x.gguf"\n[budget]\nmax_bytes = "much"\n[[step]]\ndo = "quantize"',
        'source = "model"\noutput = "x.gguf"\n[budget]\nmax_ms = nan\n[[step]]\ndo = "quantize"',
        'source = 7\noutput = "x.gguf"\n[[step]]\ndo = "quantize"',
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_with_words(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(AtollError) as told:
        read_recipe(tmp_path / "recipe.toml")
    assert told.value.code == "recipe-malformed"
    assert told.value.message.startswith("cannot follow the recipe: ")
