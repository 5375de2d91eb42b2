"""`atoll model add` from a hub, `run` and `bench`, with real engines and the models that come along."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atoll.start import start_models
from support.fix_home import NodeStarter, atoll, clean_environment, eventually
from support.folders import short_folder
from support.hubs import COMMIT, a_hub, a_registry

START = {model.name: model for model in start_models()}
IMAGE = json.dumps([[[0.5] * 8] * 8])


@pytest.fixture
def folder() -> Iterator[Path]:
    """One whose path is short enough for an engine's socket."""
    path = short_folder("run-")
    yield path
    shutil.rmtree(path)


def run_alone(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command without a node and without a home."""
    return atoll(*arguments, ATOLL_HOME="/nowhere", **environment)


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A command that can be interrupted, however the tests themselves were started."""
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    return subprocess.Popen(
        [sys.executable, "-c", f"{code} from atoll.cli.app import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=clean_environment() | environment,
    )


@pytest.mark.slow
def test_a_file_is_asked_without_a_node_and_nothing_is_left_of_it(folder: Path) -> None:
    told = run_alone("model", "run", str(START["digits"].path), "--input", f"[{IMAGE}]", TMPDIR=str(folder))
    assert told.returncode == 0, told.stderr
    (scores,) = json.loads(told.stdout)["probabilities"]
    assert sum(scores) == pytest.approx(1, abs=1e-3)
    said = run_alone(
        "model", "run", str(START["pebble"].path), "What does key-serial mean?", TMPDIR=str(folder)
    )
    assert said.returncode == 0, said.stderr
    assert len(said.stdout.split()) > 3
    assert not list(folder.glob("atoll-*"))


@pytest.mark.slow
def test_a_file_is_asked_where_temporary_files_lie_deep(tmp_path: Path) -> None:
    deep = tmp_path / ("far" * 30)
    deep.mkdir()
    said = run_alone("model", "run", str(START["pebble"].path), "Hello", "--tokens", "4", TMPDIR=str(deep))
    assert said.returncode == 0, said.stderr


@pytest.mark.slow
def test_ctrl_c_ends_an_answer_and_its_engine(folder: Path) -> None:
    said = ("model", "run", str(START["pebble"].path), "Tell me of atolls.", "--tokens", "100000")
    process = start(*said, TMPDIR=str(folder))
    children = Path(f"/proc/{process.pid}/task")
    engines: list[int] = []

    def has_engine() -> bool:
        found = [pid for task in children.glob("*/children") for pid in task.read_text().split()]
        engines[:] = [int(pid) for pid in found]
        return bool(engines)

    eventually(has_engine, "an engine is there")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in engines), "no engine is left")
    assert not list(folder.glob("atoll-*"))


@pytest.mark.slow
async def test_ctrl_c_keeps_what_was_fetched_and_the_same_command_goes_on(tmp_path: Path) -> None:
    async with a_hub({"digits/model.onnx": START["digits"].path.read_bytes()}) as hub:
        hub.mischief.silent_after = 64 * 1024
        command = ("model", "run", "hf:reef/tiny", f"[{IMAGE}]")
        environment = {"HF_ENDPOINT": hub.base, "XDG_CACHE_HOME": str(tmp_path)}
        process = start(*command, **environment)

        def has_part() -> bool:
            return any(part.stat().st_size for part in tmp_path.rglob("*.part"))

        await asyncio.to_thread(eventually, has_part, "a part came")
        process.send_signal(signal.SIGINT)
        _, words = await asyncio.to_thread(process.communicate, timeout=60)
        assert process.returncode == 130
        assert "goes on from here" in words
        hub.mischief.silent_after = None
        told = await asyncio.to_thread(atoll, *command, **environment)
        assert "probabilities" in json.loads(told.stdout)
        assert hub.ranges(), "only the rest was asked for"


@pytest.mark.slow
def test_a_model_is_measured_and_the_figures_are_for_programs(tmp_path: Path) -> None:
    flags = ("--requests", "3", "--concurrency", "2", "--tokens", "8", "--seed", "5", "--json")
    told = run_alone("model", "bench", str(START["pebble"].path), *flags)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert found["seed"] == 5
    assert found["load_seconds"] > 0
    assert found["memory_bytes"] > START["pebble"].bytes
    assert [row["callers"] for row in found["results"]] == [1, 2]
    assert all(row["tokens"] > 3 and row["prompt_tokens_per_second"] > 0 for row in found["results"])
    table = run_alone("model", "bench", str(START["digits"].path), "--requests", "3")
    assert "rows/s" in table.stdout
    assert "seed" in table.stdout


@pytest.mark.slow
async def test_models_of_a_hub_and_a_registry_answer_on_a_node(start_node: NodeStarter) -> None:
    node = start_node()
    home = ("--home", str(node.home))
    files = {"digits/model.onnx": START["digits"].path.read_bytes(), "steal.py": b"evil"}
    async with (
        a_hub(files, repo="reef/own-digits-ONNX", licence="apache-2.0") as hub,
        a_registry() as registry,
    ):
        hub.mischief.cut_after, hub.mischief.cuts = 50_000, 1
        added = await asyncio.to_thread(
            atoll, "model", "add", "hf:reef/own-digits-ONNX", *home, HF_ENDPOINT=hub.base
        )
        assert added.returncode == 0, added.stderr
        assert hub.ranges(), "it went on after the cut"
        registry.put("application/vnd.cncf.model.weight.v1.raw", "w", files["digits/model.onnx"], "d.onnx")
        image = f"oci:{registry.base.removeprefix('http://')}/reef/tiny"
        other = await asyncio.to_thread(atoll, "model", "add", image, "--name", "other", *home)
        assert other.returncode == 0, other.stderr
    shown = json.loads(atoll("model", "show", "own-digits", *home).stdout)[0]["manifest"]
    assert shown["source"] == f"hf:reef/own-digits-ONNX@{COMMIT} from {hub.base}"
    assert shown["licence"] == "apache-2.0"
    assert shown["variants"][0]["files"][0]["path"] == "model.onnx"
    other_shown = json.loads(atoll("model", "show", "other", *home).stdout)[0]
    assert other_shown["manifest"]["source"].endswith(f"/reef/tiny@{registry.digest()}")
    for name in ("own-digits", "other"):
        told = atoll("model", "run", name, f"[{IMAGE}]", *home)
        assert told.returncode == 0, told.stderr
        assert len(json.loads(told.stdout)["probabilities"][0]) == 10
    assert node.end() == 0


@pytest.mark.slow
def test_a_plan_counts_a_model_as_the_node_would_load_it(start_node: NodeStarter) -> None:
    node = start_node("--models-memory", "80MB")
    home = ("--home", str(node.home))
    added = atoll("model", "add", str(START["pebble"].path), "--name", "own", "--parallel", "2", *home)
    assert added.returncode == 0, added.stderr

    def planned(*arguments: str) -> dict[str, Any]:
        told = atoll("model", "plan", *arguments, "--json", *home)
        assert told.returncode == 0, told.stderr
        made: dict[str, Any] = json.loads(told.stdout)
        return made

    eventually(lambda: atoll("model", "plan", "own", *home).returncode == 0, "the node says what it has")
    own, file = planned("own"), planned(str(START["pebble"].path), "--parallel", "2")
    assert (own["bytes"], own["layers"], own["parallel"]) == (file["bytes"], file["layers"], 2)
    assert own["fits"] == "one"
    asked = atoll("chat", "Hello", "--model", "own", "--tokens", "4", *home)
    assert asked.returncode == 0, asked.stderr
    eventually(lambda: planned("own")["nodes"][0]["bytes_taken"] > 0, "the node says what is taken")
    assert planned("own", "--parallel", "64")["fits"] == "nowhere"
    scores = atoll("model", "plan", "digits", *home)
    assert "layers" not in scores.stdout.splitlines()[0]
    for name, code in (("nobody", "model-unknown"), ("./none.gguf", "model-missing")):
        assert f"code: {code}" in atoll("model", "plan", name, *home).stderr
    for command in ("show", "place", "rm"):
        assert "code: model-built-in" in atoll("model", command, "digits", *home).stderr
        assert "code: model-unknown" in atoll("model", command, "nobody", *home).stderr


def test_a_place_that_is_none_is_explained() -> None:
    told = run_alone("model", "run", "hf:nothing", PATH=os.environ["PATH"])
    assert told.returncode == 1
    assert "code: source-malformed" in told.stderr
