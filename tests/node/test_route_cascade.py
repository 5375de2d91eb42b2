"""A route with a small and a larger model on a real node: text and tensors, here and in a cloud."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.fix_home import NodeStarter, RunningNode, atoll, eventually
from support.fix_models import write_model
from support.lines import HELD_OUT, write_line

pytestmark = pytest.mark.slow
SAY = {
    "messages": [{"role": "user", "content": "What is an atoll?"}],
    "temperature": 0,
    "max_tokens": 6,
}


def post(node: RunningNode, path: str, body: Any, **headers: str) -> tuple[str, bytes]:
    """Why it went where it did, and the answer."""
    request = urllib.request.Request(node.http + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["x-atoll-decision"], answer.read()


def chat(node: RunningNode, model: str, **headers: str) -> tuple[str, str]:
    decision, answer = post(node, "/v1/chat/completions", {**SAY, "model": model}, **headers)
    return decision, json.loads(answer)["choices"][0]["message"]["content"]


def streamed(node: RunningNode, model: str) -> tuple[str, str]:
    decision, answer = post(node, "/v1/chat/completions", {**SAY, "model": model, "stream": True})
    events = [json.loads(line[6:]) for line in answer.split(b"\n") if line.startswith(b"data: {")]
    said = "".join(choice["delta"].get("content") or "" for one in events for choice in one["choices"])
    assert b"logprobs" not in answer
    return decision, said


def why(node: RunningNode, decision: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(node.get(f"/api/decisions/{decision.rpartition('=')[2]}")[1])
    return told


def run(node: RunningNode, *arguments: str, code: int = 0) -> str:
    done = atoll(*arguments, "--home", str(node.home))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_small_language_model_answers_first_and_escalates_only_where_it_may(
    start_node: NodeStarter, tmp_path: Path
) -> None:
    write_model(tmp_path / "babble.gguf")
    node = start_node()
    run(node, "model", "add", str(tmp_path / "babble.gguf"))
    upstream = ("model", "add", f"upstream:{node.http}/v1", "--model", "pebble", "--name", "far")
    run(node, *upstream, "--region", "eu", "--price-in", "0.5", "--price-out", "2")
    models = ("--model", "here=babble", "--model", "cloud=far", "--prefer", "here,cloud")
    keeps = (*models, "--first", "babble", "--measure", "mean_logprob", "--label", "patient=local")

    run(node, "route", "set", "ask", *keeps, "--threshold", "0")
    eventually(lambda: chat(node, "ask")[0], "the route is known")
    small, large = chat(node, "babble")[1], chat(node, "pebble")[1]
    assert small != large
    decision, said = chat(node, "ask")
    assert decision.startswith("here; route=ask; cascade=first; confidence=0.")
    assert said == small
    assert streamed(node, "ask")[1] == small

    run(node, "route", "set", "ask", *keeps, "--threshold", "1")
    eventually(lambda: chat(node, "ask")[0].startswith("cloud:far; "), "the threshold is known")
    decision, said = chat(node, "ask")
    assert decision.startswith("cloud:far; route=ask; cascade=then; confidence=0.")
    assert said == large
    assert streamed(node, "ask")[1] == large, "not a word of the small model's"
    told = why(node, decision)
    assert [one["model"] for one in told["tries"]] == ["babble", "far"]
    assert told["cascade"]["why"].endswith("is less than 1")
    assert told["answered_by"]["model"] == "far"

    decision, said = chat(node, "ask", **{"x-atoll-label": "patient"})
    assert (decision.partition(";")[0], said) == ("here", small)
    told = why(node, decision)
    assert [one["model"] for one in told["tries"]] == ["babble"]
    assert "cloud:far: scope local may not go there" in told["cascade"]["why"]

    explained = run(node, "route", "explain", "ask", "--tokens-out", "6")
    assert explained.index("first") < explained.index("then")
    assert "where the mean_logprob of babble is below 1" in explained
    plain = [*models, "--first", "pebble", "--measure", "mean_logprob", "--threshold", "1"]
    assert "cascade-malformed" in run(node, "route", "set", "bad", *plain, code=1)
    assert "cascade-malformed" in run(node, "route", "set", "bad", *models, "--threshold", "0.5", code=1)
    run(node, "route", "set", "ask", *models)
    assert json.loads(run(node, "route", "show", "ask"))["options"] == {}
    eventually(lambda: "cascade" not in chat(node, "ask")[0], "the cascade is gone")


def test_rows_of_pictures_that_a_line_is_not_sure_of_are_classified_by_the_net(
    start_node: NodeStarter, tmp_path: Path
) -> None:
    with np.load(HELD_OUT) as found:
        images, labels = (found["images"] / 16).astype(np.float32)[:, None], found["labels"].astype(int)
    line = write_line(tmp_path / "line.onnx", images[:60], labels[:60])
    node = start_node()
    run(node, "model", "add", str(line))
    measure = {"cascade": {"first": "line", "then": "digits", "measure": "score", "threshold": 0.5}}
    models = ("--model", "line", "--model", "digits")
    run(node, "route", "set", "digit", *models, "--cascade", json.dumps(measure))

    def classes(model: str) -> tuple[str, Any]:
        told = {"name": "image", "datatype": "FP32", "shape": [40, 1, 8, 8], "data": images[60:100].tolist()}
        decision, answer = post(node, f"/v2/models/{model}/infer", {"inputs": [told]})
        (outputs,) = (one for one in json.loads(answer)["outputs"] if one["name"] == "probabilities")
        return decision, np.array(outputs["data"]).reshape(outputs["shape"])

    eventually(lambda: node.get("/v1/models")[1], "the models are known")
    small, large = classes("line")[1], classes("digits")[1]
    eventually(lambda: "digit" in run(node, "route", "list"), "the route is known")
    decision, both = classes("digit")
    is_sure = small.max(axis=1) >= 0.5
    assert 0 < is_sure.sum() < 40
    assert np.allclose(both[is_sure], small[is_sure], atol=1e-5)
    assert np.allclose(both[~is_sure], large[~is_sure], atol=1e-5)
    right = [int((one.argmax(axis=1) == labels[60:100]).sum()) for one in (small, both)]
    assert right[0] < right[1]
    assert decision.startswith("here; route=digit; cascade=then; confidence=0.")
    told = why(node, decision)["cascade"]
    assert (told["rows"], told["rows_gone_on"]) == (40, int((~is_sure).sum()))
