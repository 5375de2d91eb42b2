"""Adapters on a real node: each request has the one that it names, and a new one drops no request."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.fix_home import NodeStarter, RunningNode, atoll, eventually
from support.fix_models import write_adapter

pytestmark = pytest.mark.slow
PEBBLE = {"width": 256, "inner": 704, "layers": 5}


def post(node: RunningNode, model: str, path: str = "/v1/chat/completions") -> tuple[int, Any]:
    messages = [{"role": "user", "content": "What is an atoll?"}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 8}
    request = urllib.request.Request(node.http + path, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            found = json.load(answer)
            return answer.status, found["choices"][0]["message"]["content"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]


def listed(node: RunningNode) -> list[str]:
    with urllib.request.urlopen(node.http + "/v1/models", timeout=60) as answer:
        return [one["id"] for one in json.load(answer)["data"]]


@pytest.fixture
def adapter_files(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / f"{name}.gguf" for name in ("reef", "tide")}
    for seed, file in enumerate(files.values()):
        write_adapter(file, seed, **PEBBLE)
    return files


class Asking:
    """Asks for the model alone, over and over, until the block ends."""

    def __init__(self, node: RunningNode) -> None:
        self._node = node
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answers: list[tuple[int, Any]] = []

    def _run(self) -> None:
        while not self._is_over.is_set():
            self.answers.append(post(self._node, "pebble"))

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()


def test_each_request_has_the_adapter_that_it_names(
    start_node: NodeStarter, adapter_files: dict[str, Path], tmp_path: Path
) -> None:
    node = start_node()
    home = ("--home", str(node.home))
    write_adapter(tmp_path / "wide.gguf", 1, width=512)
    for told, file, *more in (
        ("code: adapter-misfit", tmp_path / "wide.gguf", "--adapter-of", "pebble"),
        ("code: model-unknown", adapter_files["reef"], "--adapter-of", "nothing"),
        ("where its model is", adapter_files["reef"], "--adapter-of", "pebble", "--on", "all"),
    ):
        assert told in atoll("model", "add", str(file), *map(str, more), *home).stderr
    bare = post(node, "pebble")
    assert bare[0] == 200
    with Asking(node) as asking:
        for file in adapter_files.values():
            added = atoll("model", "add", str(file), "--adapter-of", "pebble", *home)
            assert added.returncode == 0, added.stderr
        eventually(lambda: listed(node)[-2:] == ["pebble:reef", "pebble:tide"], "the adapters are known")
        alone = {name: post(node, name) for name in ("pebble", "pebble:reef", "pebble:tide")}
        assert alone["pebble"] == bare
        assert len({said for _, said in alone.values()}) == 3, alone
        names = [*alone] * 4
        with ThreadPoolExecutor(len(names)) as pool:
            assert list(pool.map(lambda name: post(node, name), names)) == [alone[name] for name in names]
        status, error = post(node, "pebble:coral")
        assert (status, error["code"]) == (404, "model-unknown")
        assert "pebble:reef, pebble:tide" in error["message"]
        assert post(node, "pebble:reef", "/v1/messages")[0] == 400
        shown = atoll("model", "list", *home).stdout.splitlines()
        assert [line.split()[0] for line in shown if "with pebble" in line and " ready" in line] == [
            "pebble:reef",
            "pebble:tide",
        ]
        assert "code: adapter-placed" in atoll("model", "place", "pebble:reef", *home).stderr
        assert atoll("model", "rm", "pebble:reef", *home).returncode == 0
        eventually(lambda: "pebble:reef" not in listed(node), "it is gone")
        assert post(node, "pebble:reef")[0] == 404
        assert post(node, "pebble:tide") == alone["pebble:tide"]
    assert set(asking.answers) == {bare}
