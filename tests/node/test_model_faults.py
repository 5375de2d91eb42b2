"""What befalls a node's models: engines that die or hang under way, files and rows that are no good."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import threading
import wave
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import psycopg
import pytest
from PIL import Image

from atoll import start
from atoll.node import credentials
from atoll.node.home import open_home
from support.fix_home import NodeStarter, RunningNode, atoll, engines_of, eventually
from support.patience import at_start

pytestmark = pytest.mark.slow

SOON = at_start(
    "import functools, atoll.runtimes.llama.runtime as r\n"
    "r.Patience = functools.partial(r.Patience, ask_every_seconds=0.2, answer_seconds=1.0)"
)
CALLERS = 6
CHAT: dict[str, Any] = {
    "model": "pebble",
    "messages": [{"role": "user", "content": "Tell me of links."}],
    "temperature": 0,
}


class Caller(threading.Thread):
    """Asks for a long stream and keeps what comes."""

    def __init__(self, node: RunningNode) -> None:
        super().__init__(daemon=True)
        place = urlsplit(node.http)
        self._connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=90)
        self.has_begun = threading.Event()
        self.status = 0
        self.text = b""

    def run(self) -> None:
        body = {**CHAT, "max_tokens": 450, "stream": True, "logit_bias": {}}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = self._connection.getresponse()
        self.status = answer.status
        while part := answer.read1(1000):
            self.text += part
            self.has_begun.set()
        self.has_begun.set()
        self._connection.close()

    def is_told(self) -> bool:
        """Whether it knows how its answer ended."""
        return b"data: [DONE]" in self.text or b'"error"' in self.text


def post(node: RunningNode, path: str, told: dict[str, Any]) -> tuple[int, Any]:
    place = urlsplit(node.http)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=90)
    connection.request("POST", path, json.dumps(told))
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read())
    connection.close()
    return found


def chats(node: RunningNode) -> bool:
    return post(node, "/v1/chat/completions", {**CHAT, "max_tokens": 2})[0] == 200


def asking(node: RunningNode) -> float:
    lines = node.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("atoll_model_requests{"))


def test_an_engine_that_dies_or_hangs_ends_its_answers_and_the_next_one_answers(
    start_node: NodeStarter,
) -> None:
    node = start_node(**SOON)
    assert chats(node)
    for sign in (signal.SIGKILL, signal.SIGSTOP):
        (engine,) = engines_of(node)
        callers = [Caller(node) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        assert callers[0].has_begun.wait(60)
        os.kill(engine, sign)
        for caller in callers:
            caller.join(90)
        assert [(one.status in (200, 503), one.is_told()) for one in callers] == [(True, True)] * CALLERS
        eventually(lambda: chats(node), "the next engine answers")
        eventually(lambda: asking(node) == 0, "nobody waits any more")
        assert engines_of(node) != [engine]
    assert node.end() == 0
    assert "Traceback" not in (node.home / "logs" / "node.log").read_text()


def test_files_that_are_no_good_are_refused_or_said_and_the_others_answer(
    start_node: NodeStarter, tmp_path: Path
) -> None:
    node = start_node()
    paths = {model.name: model.path for model in start.start_models()}
    whole = paths["digits"].read_bytes()
    bad = {
        "empty.gguf": b"",
        "garbage.onnx": b"\x08\x07" + bytes(range(256)) * 40,
        "cut.onnx": whole[: len(whole) // 2],
        "cut.gguf": paths["pebble"].read_bytes()[:200_000],
        "flipped.gguf": paths["pebble"].read_bytes()[:64] + bytes(64) + paths["pebble"].read_bytes()[128:],
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        model = name.replace(".", "-")
        added = atoll("model", "add", str(tmp_path / name), "--name", model, "--home", str(node.home))
        if added.returncode:
            assert "code: " in added.stderr, added.stderr
            continue
        eventually(lambda model=model: model in node.get("/v1/models")[1], "the model is known")  # type: ignore[misc]
        is_text = name.endswith("gguf")
        path = "/v1/completions" if is_text else f"/v2/models/{model}/infer"
        asked = {"model": model, "prompt": "x"} if is_text else digits(model)
        status, told = post(node, path, asked)
        assert status == 400, told
        assert "model-unusable" in json.dumps(told), told
    assert chats(node)
    assert post(node, "/v2/models/digits/infer", digits("digits"))[0] == 200


def digits(model: str) -> dict[str, Any]:
    from atoll.registry.formats.read import read_model

    (path,) = [one.path for one in start.start_models() if one.name == "digits"]
    (taken,) = read_model(path).inputs
    shape = [1, 1, 8, 8]
    return {"inputs": [{"name": taken.name, "datatype": "FP32", "shape": shape, "data": [0.5] * 64}]}


def picture() -> bytes:
    found = io.BytesIO()
    Image.new("L", (20, 20), 128).save(found, "PNG")
    return found.getvalue()


def recording() -> bytes:
    found = io.BytesIO()
    with wave.open(found, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(np.zeros(800, np.int16).tobytes())
    return found.getvalue()


@pytest.mark.parametrize(("kind", "model"), [("image", "digits"), ("audio", "bearing")])
def test_pictures_and_recordings_that_are_none_wait_alone_with_a_reason(
    start_node: NodeStarter, kind: str, model: str
) -> None:
    good = picture() if kind == "image" else recording()
    bad = [b"", b"\x00" * 100, b"not one", good[: len(good) // 3], good[:20] + b"\xff" * 500]
    node = start_node()
    with psycopg.connect(credentials.dsn(open_home(node.home)), autocommit=True) as app:
        app.execute("create table thing (id int primary key, body bytea)")
        values = ["alerts", "thing", "body", model, "verdict", kind, 1]
        app.execute(
            "select atoll.add_pipeline(%s, source => %s, input => %s, model => %s, output => %s, kind => %s,"
            " tries_max => %s::integer)",
            values,
        )
        bodies = dict(enumerate([good, *bad, good]))
        with app.cursor() as cursor:
            cursor.executemany("insert into thing values (%s, %s)", list(bodies.items()))

        def scored() -> list[int]:
            return [number for (number,) in app.execute("select id from verdict order by id").fetchall()]

        def dead() -> dict[int, str]:
            rows = app.execute("select (key->>'id')::int, problem from atoll.dead_letters").fetchall()
            return dict(rows)

        eventually(lambda: len(scored()) + len(dead()) == len(bodies), "every row is scored or given up")
        assert {0, len(bodies) - 1} <= set(scored())
        assert dead()
        assert not set(scored()) & set(dead())
        assert all("cannot be read" in why or "recording" in why or "image" in why for why in dead().values())
